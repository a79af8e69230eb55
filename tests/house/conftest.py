"""A small world made through the command line, and processes of it that can be killed."""

import dataclasses
import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

from monosem.cli import VERBS

PRELOADED = [f"monosem.cli.{verb}" for verb in VERBS]
SITE = "blocks.0.mlp.hook_post"

PROGRAM = """
import os, sys
os.chdir({cwd!r})
sys.stdout = open({log!r} + ".out", "w", buffering=1)
sys.stderr = open({log!r} + ".err", "w", buffering=1)
import torch
torch.set_num_threads(1)
from monosem.cli import main
sys.exit(main({arguments!r}))
"""


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str
    seconds: float


class CommandLine:
    """`monosem` in processes forked from one that has torch loaded, so that a start costs little."""

    def __init__(self, context: ForkServerContext, logs: Path) -> None:
        self._context, self._logs, self._count = context, logs, 0

    def start(self, arguments: list[str], cwd: Path) -> tuple[ForkServerProcess, Path]:
        """Start a command in its own process; what it says goes to two files beside `log`."""
        self._count += 1
        log = self._logs / f"{self._count:04}-{arguments[0]}"
        program = PROGRAM.format(cwd=str(cwd), log=str(log), arguments=arguments)
        process = self._context.Process(target=exec, args=(program, {}))
        process.start()
        return process, log

    def run(self, arguments: list[str], cwd: Path) -> Done:
        """Run a command to its end."""
        start = time.perf_counter()
        process, log = self.start(arguments, cwd)
        process.join(300)
        if process.is_alive():
            process.kill()
            pytest.fail(f"`monosem {' '.join(arguments)}` hung")
        code = process.exitcode
        assert code is not None
        said = [log.with_name(log.name + end).read_text("utf-8") for end in (".out", ".err")]
        return Done(code, *said, time.perf_counter() - start)

    def kill(self, arguments: list[str], cwd: Path, after: float) -> bool:
        """Start a command and kill it `after` seconds; whether it was still running."""
        return self.kill_when(arguments, cwd, lambda: True, after)

    def kill_when(
        self, arguments: list[str], cwd: Path, begun: Callable[[], bool], after: float
    ) -> bool:
        """Start a command and kill it `after` seconds past the moment when `begun()`."""
        process, _ = self.start(arguments, cwd)
        last = time.monotonic() + 300
        while process.is_alive() and not begun():
            process.join(0.005)
            if time.monotonic() > last:
                process.kill()
                pytest.fail(f"`monosem {' '.join(arguments)}` hung")
        process.join(after)
        running = process.is_alive()
        process.kill()
        process.join()
        return running


@pytest.fixture(scope="session")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """The command line, ready to start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return CommandLine(context, tmp_path_factory.mktemp("logs"))


@dataclasses.dataclass(frozen=True)
class World:
    """A corpus, and the command that makes each stage from the ones before, in `home`."""

    home: Path
    commands: dict[str, list[str]]
    seconds: dict[str, float]

    def folder(self, verb: str) -> Path:
        """Where `verb` writes."""
        command = self.commands[verb]
        return self.home / command[command.index("--out") + 1]


def commands() -> dict[str, list[str]]:
    """The smallest useful run of every verb that writes."""
    tokens = ["--tokenizer", "train:300", "--context", "32", "--heldout-share", "0.2"]
    model = ["--n-tokens", "60000", "--batch-contexts", "8", "--keep-checkpoints", "2"]
    model += ["--precision", "fp32"]
    read = ["--model", "model/model", "--tokens", "tokens", "--device", "cpu"]
    train = ["--architecture", "topk", "relu", "--n-latents", "64", "--k", "8"]
    train += ["--n-tokens", "60000", "--batch-size", "512", "--buffer-tokens", "8192"]
    evaluate = ["--n-loss-tokens", "2000", "--n-mean-tokens", "2000", "--n-density-tokens", "20000"]
    return {
        "tokens": ["tokens", "--corpora", "corpus", *tokens, "--out", "tokens"],
        "pretrain": ["pretrain", "tiny", "--tokens", "tokens", *model, "--out", "model"],
        "capture": [
            "capture",
            *read,
            "--sites",
            SITE,
            "--shard-tokens",
            "512",
            "--out",
            "activations",
        ],
        "train": ["train", *read, *train, "--matmul", "fp32", "--site", SITE, "--out", "sae"],
        "evaluate": ["evaluate", "sae", *read, *evaluate, "--out", "evaluation"],
        "features": ["features", "sae/topk", *read, "--n-tokens", "20000", "--out", "features"],
        "report": ["report", "features", "--metrics", "evaluation", "--out", "report.html"],
    }


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sixty short documents whose words follow one another by a rule."""
    folder = tmp_path_factory.mktemp("world") / "corpus"
    folder.mkdir()
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghij", k=chance.randint(2, 7))) for _ in range(200)]
    for number in range(60):
        at, text = chance.randrange(200), []
        for _ in range(300):
            at = (3 * at + chance.choice((1, 7, 19))) % 200
            text.append(words[at])
        (folder / f"document-{number:02}.txt").write_text(" ".join(text) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def world(corpus: Path, command_line: CommandLine) -> World:
    """Every stage, made once by the command line without a hitch."""
    made = World(corpus.parent, commands(), {})
    for verb, arguments in made.commands.items():
        done = command_line.run(arguments, made.home)
        assert done.code == 0, f"monosem {' '.join(arguments)}\n{done.err}"
        made.seconds[verb] = done.seconds
    return made


@pytest.fixture
def randomness(request: pytest.FixtureRequest) -> random.Random:
    """Chance by a seed that is printed; `MONOSEM_SEED` repeats a run."""
    seed = int(os.environ.get("MONOSEM_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"MONOSEM_SEED={seed} {request.node.name}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, str]]:
    """What an artifact holds: the recorded hash of each file that does not name a time."""

    def read(folder: Path) -> dict[str, str]:
        files = json.loads((folder / "config.json").read_text("utf-8"))["files"]
        return {name: entry["sha256"] for name, entry in files.items()}

    return read
