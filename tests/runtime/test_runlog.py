import json
import signal

from monosem.runtime.interruption import interruption
from monosem.runtime.runlog import RunLog, read_log


def test_each_line_is_one_json_object(tmp_path):
    log = RunLog(tmp_path / "new" / "log.jsonl")
    log.write(step=1, loss=0.5, topk={"l0": 16.0})
    log.write(step=2, loss=float("nan"), topk={"l0": float("inf")})
    lines = (tmp_path / "new" / "log.jsonl").read_text().splitlines()
    assert [json.loads(x) for x in lines] == [
        {"step": 1, "loss": 0.5, "topk": {"l0": 16.0}},
        {"step": 2, "loss": None, "topk": {"l0": None}},
    ]


def test_a_resumed_run_drops_the_lines_it_will_write_again(tmp_path):
    path = tmp_path / "log.jsonl"
    log = RunLog(path)
    for step in (1, 2, 3, 4):
        log.write(step=step)
    with path.open("a") as file:
        file.write('{"step": 5, "lo')
    RunLog(path, resume_step=2).write(step=3, again=True)
    assert read_log(path) == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_a_new_run_starts_with_an_empty_log(tmp_path):
    RunLog(tmp_path / "log.jsonl").write(step=1)
    RunLog(tmp_path / "log.jsonl")
    assert read_log(tmp_path / "log.jsonl") == []


def test_an_interruption_waits_for_the_step_and_the_handlers_come_back():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    for number in (signal.SIGINT, signal.SIGTERM):
        with interruption() as interrupted:
            assert not interrupted()
            signal.raise_signal(number)
            assert interrupted()
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
