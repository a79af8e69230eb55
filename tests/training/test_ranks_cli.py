"""The commands of docs/ranks.md, as `torchrun` starts them."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from monosem import cli

PAGE = Path(__file__).parents[2] / "docs" / "ranks.md"


@pytest.mark.slow
def test_the_commands_of_the_page_on_ranks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text"
    text.mkdir()
    for i in range(40):
        (text / f"{i}.txt").write_text(
            " ".join(f"def f{i}_{j}(x): return x + {j}" for j in range(150))
        )
    assert cli.main(["tokens", "--corpora", str(text), "--tokenizer", "1L-a"]) == 0
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for command in block.splitlines():
        _, *words = shlex.split(command)
        # the port that a page names is any other's too
        started = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        done = subprocess.run(
            [*started, *words, "--device", "cpu"],
            env={**os.environ, "MONOSEM_PROGRESS": "0", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        result = "ordinary tokens" if "features" in words else "tokens"
        assert done.stdout.count(result) == 1, "one rank alone prints the result"
    for name in ("rows", "latents", "sweep"):
        made = json.loads((tmp_path / "runs" / name / "config.json").read_text())["config"][
            "machine"
        ]
        assert made["ranks"] == 2
        assert made["parallel"] == {"rows": "data"}.get(name, name)
