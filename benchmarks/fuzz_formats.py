"""Fuzzing of the readers of formats: no exception but ours, no memory beyond a multiple of the file.

    python benchmarks/fuzz_formats.py --seconds 60 --format pt --format saelens
    python benchmarks/fuzz_formats.py --seconds 60 --engine random

A target is a parser (`header`, `npy` and `pickle` put what they are given into a file that is otherwise
right, past its lengths and checksums) or a layout, in whose folder one file is mutated. Seeds are files
that our own writers make. `atheris` guides mutations by what of the Python code they reach: of ours and
of the libraries in `WATCHED`. Code in C++ and Rust (torch, safetensors) is run, but does not guide.
A finding is an exception that is no `MonosemError`, resident memory that grew by more than 8 times what
the folder holds and 32 MiB, or a process that died. Its input is kept and named, and the exit status is 1.
"""

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import io
import json
import multiprocessing
import os
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

WATCHED = ["monosem", "yaml", "zipfile", "pickletools", "json"]
"""Whole packages: what is imported before, torch and numpy, would take minutes to instrument."""
MISSING = (
    "`atheris` is not installed, and `--engine atheris` needs it. It has wheels for Linux on x86-64 and "
    "builds with clang elsewhere: `pip install atheris`, or pass `--engine random` for seeded mutations "
    "that nothing guides."
)
atheris: Any = importlib.import_module("atheris") if importlib.util.find_spec("atheris") else None

# what is imported here is what guides the mutations
_guides = (
    atheris and __name__ != "__main__"
)  # in the processes that read, not in the one that waits
with atheris.instrument_imports(include=WATCHED) if _guides else contextlib.nullcontext():
    from monosem.core.errors import MonosemError
    from monosem.dictionaries.formats import table
    from monosem.dictionaries.formats.archives import MULTIPLE
    from monosem.dictionaries.formats.build import dictionary_of
    from monosem.dictionaries.formats.files import Files
    from monosem.dictionaries.formats.specification import Axes, Place, Specification
    from monosem.dictionaries.wiring import Wiring

D, LATENTS = 6, 10
CONSTANT = 32 * 2**20
"""Bytes of memory beyond the multiple: buffers of the readers and of the allocator."""
SLOWEST = 60
"""Seconds after which an input counts as one that never ends, on a machine that may be busy."""
PARSERS = {
    "safetensors": "it.safetensors",
    "header": "it.safetensors",
    "npz": "it.npz",
    "npy": "it.npz",
}
PARSERS |= {"pt": "it.pt", "pickle": "it.pt", "json": "it.json", "yaml": "it.yaml"}
LAYOUTS = [*(f.name for f in table.FORMATS if f.write is not None), "openai", "plain"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is fuzzed: an input becomes files in `folder`, which `read` reads."""

    name: str
    folder: Path
    seeds: tuple[bytes, ...]
    put: Callable[[bytes], None]
    read: Callable[[], None]


def main() -> int:
    """Fuzz each target in a process of its own, and return 1 if anything was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each format")
    parser.add_argument(
        "--format", action="append", choices=[*PARSERS, *LAYOUTS], help="default: all"
    )
    parser.add_argument("--engine", choices=["atheris", "random"], default="atheris")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--findings", type=Path, default=Path("fuzz-findings"), help="where to keep inputs"
    )
    asked = parser.parse_args()
    if asked.engine == "atheris" and atheris is None:
        print(MISSING, file=sys.stderr)
        return 2
    if not Path("/proc/self/clear_refs").exists():
        print(
            "Memory is not measured: only Linux says what the peak of each read was.",
            file=sys.stderr,
        )
    found = 0
    print(
        f"{'format':22}{'engine':>10}{'seconds':>9}{'executions':>12}{'read':>9}{'refused':>9}{'findings':>10}"
    )
    for name in asked.format or [*PARSERS, *LAYOUTS]:
        with tempfile.TemporaryDirectory() as place:
            report = _in_a_process(name, Path(place), asked)
        numbers = [report[k] for k in ("seconds", "executions", "read", "refused")]
        print(
            f"{name:22}{asked.engine:>10}{numbers[0]:9.1f}{numbers[1]:12,}{numbers[2]:9,}{numbers[3]:9,}"
            f"{len(report['findings']):10}",
            flush=True,
        )
        for what, kept in report["findings"].items():
            print(f"  {what}\n    {kept}")
        found += len(report["findings"])
    return int(found > 0)


def _in_a_process(name: str, place: Path, asked: argparse.Namespace) -> dict[str, Any]:
    arguments = (name, place, asked.engine, asked.seconds, asked.seed, asked.findings.absolute())
    process = multiprocessing.get_context("spawn").Process(target=_fuzz, args=arguments)
    process.start()
    process.join(asked.seconds + 2 * SLOWEST)
    if process.is_alive():
        process.kill()
        process.join()
    report = {"seconds": 0.0, "executions": 0, "read": 0, "refused": 0, "findings": {}}
    if (place / "report.json").exists():
        report = json.loads((place / "report.json").read_text())
    if (
        process.exitcode != 0
    ):  # it crashed, hung or was killed for its memory: its files are as they were
        kept = asked.findings.absolute() / f"{name}-died-{os.getpid()}-{time.time_ns()}"
        shutil.copytree(place, kept)
        report["findings"][f"the process ended with {process.exitcode}"] = str(kept)
    return report


def _fuzz(name: str, place: Path, engine: str, seconds: float, seed: int, findings: Path) -> None:
    """Run one target until its time is over, and write what happened to `place/report.json`."""
    log = os.open(place / "log.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 2)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    target = _target(name, place)
    for seed_input in target.seeds:  # also warms up what is imported or allocated once
        target.put(seed_input)
        target.read()
    watch = _Watch(target, findings, place / "report.json", seconds)
    if engine == "random":
        generator = random.Random(seed)
        while True:
            watch(_mutated(generator.choice(target.seeds), generator))
    corpus = place / "corpus"
    corpus.mkdir()
    for i, seed_input in enumerate(target.seeds):
        (corpus / str(i)).write_bytes(seed_input)
    options = [f"-seed={seed}", "-max_len=65536", f"-timeout={SLOWEST}", "-rss_limit_mb=8192"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={place}/", str(corpus)], watch)
    atheris.Fuzz()


class _Watch:
    """Runs a target on one input after another, and ends the process when the time is over."""

    def __init__(self, target: Target, findings: Path, report: Path, seconds: float) -> None:
        self.target, self.findings, self.report = target, findings, report
        self.start = time.monotonic()
        self.end = self.start + seconds
        self.counts = {"executions": 0, "read": 0, "refused": 0}
        self.found: dict[str, str] = {}

    def __call__(self, content: bytes) -> None:
        self.target.put(content)
        allowed = CONSTANT + MULTIPLE * sum(p.stat().st_size for p in self.target.folder.rglob("*"))
        before = _resident(reset=True)
        self.counts["executions"] += 1
        try:
            self.target.read()
            self.counts["read"] += 1
        except MonosemError:
            self.counts["refused"] += 1
        except BaseException as error:  # whatever else it is, it is what is looked for
            frame = traceback.extract_tb(error.__traceback__)[-1]
            self._keep(
                f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}", repr(error)
            )
        grown = _resident(reset=False) - before
        if grown > allowed:
            self._keep("memory", f"{grown:,} bytes, of which {allowed:,} are allowed")
        if self.counts["executions"] % 500 == 1 or time.monotonic() > self.end:
            self._write()
        if time.monotonic() > self.end:
            os._exit(0)  # neither engine has another way to stop

    def _keep(self, what: str, how: str) -> None:
        if any(known.startswith(what) for known in self.found):
            return
        digest = hashlib.sha256(what.encode()).hexdigest()[:8]
        kept = self.findings / f"{self.target.name}-{digest}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.target.folder, kept)
        self.found[f"{what}: {how[:200]}"] = str(kept)
        self._write()

    def _write(self) -> None:
        seconds = time.monotonic() - self.start
        self.report.write_text(
            json.dumps({"seconds": seconds, **self.counts, "findings": self.found})
        )


def _resident(*, reset: bool) -> int:
    """The highest resident memory in bytes since the last reset, or now; 0 where nothing says it."""
    if not Path("/proc/self/clear_refs").exists():
        return 0
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def _target(name: str, place: Path) -> Target:
    folder = place / "files"
    if name in LAYOUTS:
        _layout(name, folder)
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        originals = [path.read_bytes() for path in files]

        def put(content: bytes) -> None:
            """The first byte says which file the rest is."""
            which = content[0] % len(files) if content else 0
            for i, path in enumerate(files):
                path.write_bytes(content[1:] if i == which else originals[i])

        seeds = tuple(bytes([i]) + original for i, original in enumerate(originals))
        return Target(name=name, folder=folder, seeds=seeds, put=put, read=lambda: _open(folder))
    folder.mkdir()
    path = folder / PARSERS[name]
    return Target(
        name=name,
        folder=folder,
        seeds=tuple(_seeds(name)),
        put=lambda content: path.write_bytes(_wrapped(name, content)) and None,
        read=lambda: _parse(path),
    )


def _open(folder: Path) -> None:
    table.detect(folder)
    contents = table.read(folder)
    for s in [contents] if isinstance(contents, Specification) else list(contents.values()):
        dictionary_of(s)


def _parse(path: Path) -> None:
    """Everything that `Files` can be asked about one file; the first refusal is held to the end."""
    files, refused = Files.at(path), None
    asked: list[Callable[[str], object]] = [files.shapes, files.keys, files.tensors, files.contents]
    if path.suffix in (".json", ".yaml"):
        asked = [files.json if path.suffix == ".json" else files.yaml]
    for ask in asked:
        try:
            ask(path.name)
        except MonosemError as error:
            refused = refused or error
    if refused is not None:
        raise refused


def _seeds(name: str) -> list[bytes]:
    """What our tests and writers write, small."""
    tensors = {
        "W": torch.arange(12.0).reshape(3, 4),
        "k": torch.tensor(7),
        "h": torch.ones(2).half(),
    }
    arrays = {key: value.numpy() for key, value in tensors.items()}
    stream = io.BytesIO()
    if name in ("safetensors", "header"):
        whole = safetensors.torch.save(tensors)
        return [whole if name == "safetensors" else whole[8:]]
    if name in ("npz", "npy"):
        np.savez(stream, **arrays) if name == "npz" else np.save(stream, arrays["W"])
        return [stream.getvalue()]
    if name in ("pt", "pickle"):
        torch.save({"number": 3, **tensors}, stream)
        with zipfile.ZipFile(stream) as archive:
            return [stream.getvalue() if name == "pt" else archive.read("archive/data.pkl")]
    settings = {
        "d_in": 6,
        "metadata": {"hook_name": "blocks.0.hook_resid_post", "x": [1.5, None, True]},
    }
    plain = b"d_in: 6\nmetadata:\n  hook_name: blocks.0\n  x: [1.5, null, true]\n"
    return [json.dumps(settings).encode()] + ([plain] if name == "yaml" else [])


def _wrapped(name: str, content: bytes) -> bytes:
    """A file with `content` in it, past the lengths and checksums that a mutation would break first."""
    if name == "header":
        end = content.rfind(b"}") + 1
        size = len(content) - len(content[end:].lstrip(b" "))  # it may be filled up with spaces
        return struct.pack("<Q", size) + content
    stream = io.BytesIO()
    if name == "npy":
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("W.npy", content)
        return stream.getvalue()
    if name != "pickle":
        return content
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        for i in range(3):
            archive.writestr(f"archive/data/{i}", b"\1" * 48)
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def _layout(name: str, folder: Path) -> None:
    """A small dictionary in the layout `name`."""
    g = torch.Generator().manual_seed(0)
    W_enc, W_dec = torch.randn(D, LATENTS, generator=g), torch.randn(LATENTS, D, generator=g)
    weights: dict[str, Any] = {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_enc": torch.ones(LATENTS),
        "b_dec": torch.ones(D),
    }
    if name != "monosem":
        folder.mkdir()
    if name == "openai":
        names = {"pre_bias": weights["b_dec"], "latent_bias": weights["b_enc"]}
        names |= {"encoder.weight": W_enc.T.contiguous(), "decoder.weight": W_dec.T.contiguous()}
        state = {"activation": "TopK", "activation_state_dict": {"k": 3, "postact_fn": "ReLU"}}
        return torch.save(names | state, folder / "3.pt")
    if name == "plain":
        torch.save(weights, folder / "sae.pt")
        (folder / "config.json").write_text('{"k": 3, "subtract_b_dec": true}')
        return None
    s = Specification(activation="topk", k=3, axes=Axes(subtract_b_dec=True), **weights)
    if name == "circuit_tracer":
        place = Place(model="m", site="blocks.0.hook_resid_mid", target="blocks.0.hook_mlp_out")
        axes, wiring = Axes(subtract_b_dec=False), Wiring(kind="transcoder")
        s = Specification(activation="topk", k=3, axes=axes, wiring=wiring, place=place, **weights)
    write = table.named(name).write
    assert write is not None, "LAYOUTS names only those that are written"
    return write(s, folder)


def _mutated(content: bytes, generator: random.Random) -> bytes:
    """Some bytes flipped, set, put in or cut off."""
    changed = bytearray(content)
    for _ in range(generator.randint(1, 6)):
        at = generator.randrange(max(1, len(changed)))
        how = generator.choice(["flip", "set", "insert", "cut", "move"])
        if how == "cut" and generator.random() < 0.3:
            del changed[at:]
        elif how == "insert":
            changed[at:at] = generator.randbytes(generator.randint(1, 12))
        elif how == "move":
            changed[at:at] = changed[at // 2 : at // 2 + generator.randint(1, 16)]
        elif changed:
            changed[at] = changed[at] ^ 1 << generator.randrange(8) if how == "flip" else 255
    return bytes(changed)


if __name__ == "__main__":
    sys.exit(main())
