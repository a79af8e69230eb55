import json
import re
import socket

import pytest

from monosem.cli import explore, report
from monosem.core.errors import ArtifactMissingError, ConfigError


def test_metrics_are_read_from_a_json_file(tmp_path) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(
        json.dumps({"dictionaries": {"topk": {"l0": 16}}, "language_model": {"loss": 3.0}})
    )
    rows, losses = report.read_metrics((file,))
    assert rows == {"topk": {"l0": 16}}
    assert losses == {"loss": 3.0}
    assert report.read_metrics(()) == ({}, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "There are no metrics"), ("{", "not readable JSON"), ("[]", "no `dictionaries`")],
)
def test_metrics_that_cannot_be_read_are_named(tmp_path, content, message) -> None:
    file = tmp_path / "metrics.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        report.read_metrics((file,))


def test_a_missing_database_is_said_before_anything_is_written(tmp_path) -> None:
    with pytest.raises(ArtifactMissingError):
        report.main([str(tmp_path / "none"), "--out", str(tmp_path / "r.html")])
    with pytest.raises(ConfigError, match="is a folder"):
        report.main([str(tmp_path / "none"), "--out", str(tmp_path)])
    with pytest.raises(ConfigError, match="are counts"):
        report.main([str(tmp_path / "none"), "--chosen", "-1"])
    with pytest.raises(ConfigError, match="No feature database"):
        report.open_databases(())
    assert not list(tmp_path.iterdir())


def test_a_port_that_is_taken_or_impossible_is_said_before_any_work(tmp_path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(ConfigError, match="cannot be taken"):
            explore.main([str(tmp_path), "--port", port])
    with pytest.raises(ConfigError, match="0..65535"):
        explore.main([str(tmp_path), "--port", "70000"])
    with pytest.raises(ArtifactMissingError):
        explore.main([str(tmp_path / "none"), "--port", "0"])


def test_two_evaluations_of_one_name_are_both_shown(tmp_path) -> None:
    files = [tmp_path / "short.json", tmp_path / "long.json"]
    for file, l0 in zip(files, (8, 16), strict=True):
        rows = {"topk": {"l0": l0}, "neurons": {"l0": 8}}
        file.write_text(json.dumps({"dictionaries": rows}))
    rows, _ = report.read_metrics(tuple(files))
    assert rows == {"topk": {"l0": 8}, "neurons": {"l0": 8}, "long/topk": {"l0": 16}}
    (tmp_path / "other").mkdir()
    again = tmp_path / "other" / "long.json"
    again.write_text(json.dumps({"dictionaries": {"topk": {"l0": 32}}}))
    with pytest.raises(ConfigError, match="long/topk"):
        report.read_metrics((*files, again))


def test_whoever_reads_the_address_may_connect_before_pages_are_served(monkeypatch, capsys):
    def connect(app, listener):
        host, port = re.search(r"http://([\d.]+):(\d+)/", capsys.readouterr().out).groups()
        socket.create_connection((host, int(port)), timeout=10).close()
        connected.append(int(port) == listener.getsockname()[1])

    connected = []
    monkeypatch.setattr(explore, "serve", connect)
    monkeypatch.setattr(explore, "create_app", lambda *_: None)
    monkeypatch.setattr(explore, "open_databases", lambda folders: {})
    assert explore.main(["nothing", "--port", "0"]) == 0
    assert connected == [True]
