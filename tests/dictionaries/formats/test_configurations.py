"""Configurations of foreign files: what is none is refused, and nothing in one is run or expanded."""

from pathlib import Path

import pytest

from monosem.core.errors import ArtifactCorruptError
from monosem.dictionaries.formats.files import Files
from monosem.dictionaries.formats.pieces import setting


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("deep.json", "[" * 100_000, "not readable JSON"),
        ("long.json", '{"a": ' + "9" * 5_000 + "}", "not readable JSON"),
        ("list.json", "[1]", "a `list` in JSON"),
        ("bytes.json", b"\xff\xfe{}", "not readable JSON"),
        ("bomb.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases or tags"),
        ("code.yaml", "a: !!python/object/apply:os.mkdir [ran]", "aliases or tags"),
        ("int.yaml", 'a: !!int ""', "aliases or tags"),
        ("date.yaml", "a: 2024-13-45", "not readable YAML"),
        ("deep.yaml", "[" * 20_000, "not readable YAML"),
        ("numbers.yaml", "1: 2", "settings by name"),
    ],
)
def test_configurations_that_are_none_are_refused(
    name: str, text: str | bytes, says: str, tmp_path: Path
) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / name).write_bytes(data)
    files = Files.at(tmp_path)
    with pytest.raises(ArtifactCorruptError, match=says):
        files.json(name) if name.endswith("json") else files.yaml(name)


def test_a_configuration_as_large_as_weights_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "cfg.json").open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(ArtifactCorruptError, match="at most"):
        Files.at(tmp_path).json("cfg.json")


@pytest.mark.parametrize("kind", [int, float])
def test_whole_numbers_of_hundreds_of_digits_are_nobodys_setting(kind: type) -> None:
    with pytest.raises(ArtifactCorruptError, match=r"`k` is .* 1,329 bits"):
        setting({"k": 10**400}, "k", kind)
