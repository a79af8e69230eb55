"""Writes an activation store, shard by shard; a kill at any moment leaves the shards that were whole.

    OUT.capturing/.plan.json      what is being captured; another plan is refused
    OUT.capturing/.shards.jsonl   one line for each shard that is whole: rows, bytes, SHA-256, errors
    OUT.capturing/shards/…        renamed into place when they are written and flushed

The same call goes on after the last whole shard; at the end the folder becomes the store. Shard n holds
what a live source with the same seed serves as its n-th block, in the same order.
"""

import contextlib
import errno
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from monosem.activations.capture import CaptureSource
from monosem.activations.codec import (
    STORED_TYPES,
    Channels,
    StoredType,
    bytes_per_vector,
    measured,
    packed,
    unpack_,
)
from monosem.activations.source import Batch
from monosem.activations.store import CHANNELS, KIND, SCALE, ActivationStore, shard_name
from monosem.core import artifact
from monosem.core.artifact import write_json
from monosem.core.config import Json, to_json
from monosem.core.errors import ConfigError, ResumeError, StorageFullError
from monosem.core.progress import progress
from monosem.models.language_model import LanguageModel
from monosem.runtime.distributed import ALONE, World
from monosem.runtime.lock import LOCK, only_writer
from monosem.text.tokens import Split, TokenStore

PLAN, DONE = ".plan.json", ".shards.jsonl"
SHARD_BYTES = 2**28
"""Memory of the float32 activations of one shard, all sites together."""
SHARD_TOKENS = 2**17
"""Tokens of a shard, at most."""
ROW_BYTES = 8 + 4
"""Of each token: its row in the token store, and its id."""


@dataclass(frozen=True, kw_only=True)
class CaptureConfig:
    """What is captured, and how it is kept."""

    sites: tuple[str, ...] = ("blocks.0.mlp.hook_post",)
    """Where activations are read; all sites come from one pass of the model."""
    dtype: StoredType = "int8"
    """How they are kept: int8 with scales for channels and vectors, bfloat16 or float32."""
    n_tokens: int = 0
    """Ordinary tokens to keep, drawn at random over the split; 0 keeps all."""
    split: Split = "train"
    """Which side of the token store is read."""
    seed: int = 0
    """Seed of the order."""
    shard_tokens: int = 0
    """Tokens a shard; 0: as many as 256 MiB of activations hold, 131,072 at most."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not self.sites:
            raise ConfigError(
                "`sites` is empty. Name at least one, such as blocks.0.mlp.hook_post."
            )
        if self.dtype not in STORED_TYPES:
            raise ConfigError(
                f"`dtype` must be one of {', '.join(STORED_TYPES)}, got `{self.dtype}`."
            )
        for name in ("n_tokens", "shard_tokens"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must be 0 or more, got {getattr(self, name)}.")


def capture_store(
    config: CaptureConfig,
    model: LanguageModel,
    tokens: TokenStore,
    out: Path | str,
    *,
    fresh: bool = False,
    world: World = ALONE,
) -> ActivationStore:
    """Capture the activations of `config` and return the store at `out`.

    Ranks of `world` call this alike, and each captures every `size`-th shard; the store is the same.

    A finished store of the same configuration and inputs is used again, an interrupted one goes on;
    `fresh` starts anew. Checked before: names, space (`StorageFullError`), writers (`ArtifactBusyError`).
    """
    out = Path(out)
    artifact.check_target(out, KIND)
    work = _Work(config, model, tokens, out, world)
    if world.by_first(lambda: not fresh and work.found()):
        return ActivationStore.open(out)
    with contextlib.ExitStack() as stack:
        world.by_first(lambda: stack.enter_context(only_writer(work.folder)))
        if not world.by_first(lambda: work.finished_meanwhile(fresh)):
            work.go()
    return ActivationStore.open(out)


class _Work:
    """One store in the making."""

    def __init__(
        self,
        config: CaptureConfig,
        model: LanguageModel,
        tokens: TokenStore,
        out: Path,
        world: World,
    ) -> None:
        self.config, self.out, self.world = config, out, world
        self.folder = out.with_name(f"{out.name}.capturing")
        widths = {str(model.check_site(site)): model.width(site) for site in config.sites}
        self.widths, self.tokens = widths, tokens
        self._captured: dict[int, tuple[Batch, int]] = {}
        """The first block, between measuring channels on it and writing it."""
        by_memory = SHARD_BYTES // (4 * sum(widths.values()))
        n = config.shard_tokens or min(SHARD_TOKENS, by_memory)
        self.source = CaptureSource(
            model,
            tokens,
            list(widths),
            batch_size=1,
            buffer_tokens=max(n, tokens.context),
            n_rows=config.n_tokens or None,
            split=config.split,
            seed=config.seed,
        )
        self.plan: Json = {
            "capture": to_json(config),
            "widths": widths,
            "model": model.hash,
            "model_name": model.name,
            "tokens": tokens.hash,
            "context": tokens.context,
        }

    def found(self) -> bool:
        """Whether the store is there already; `ResumeError` if it holds something else."""
        if not (self.out / artifact.CONFIG_NAME).is_file():
            return False
        _check_same(self.out, ActivationStore.open(self.out).config, self.plan)
        sys.stderr.write(f"`{self.out}` is already there; used again.\n")
        return True

    def finished_meanwhile(self, fresh: bool) -> bool:
        """Whether another process has just finished it; what is no longer wanted is removed."""
        if fresh:
            self.forget()
        elif self.found():
            shutil.rmtree(self.folder)
            return True
        return False

    def go(self) -> None:
        """Write the shards that are missing, then make the folder the store."""
        done: list[Json] = self.world.by_first(self._begin)
        n_blocks, wanted = self.source.n_blocks, self.config.n_tokens
        total = wanted or tokens_of(self.tokens, self.config.split)
        self.world.by_first(lambda: self._check_space(total, done))
        channels = self._channels(done)
        have = sum(line["n_rows"] for line in done)
        with progress("capture (tokens)", total) as bar:
            bar.advance(have)
            for first in range(len(done), n_blocks, self.world.size):
                if wanted and have >= wanted:
                    break
                for line in self._round(first, wanted - have if wanted else None, channels):
                    done.append(line)
                    have += line["n_rows"]
                    bar.advance(line["n_rows"])
                    if self.world.rank == 0:
                        self._note(line)
        if not have:
            raise ConfigError(
                f"The {self.config.split} split of `{self.tokens.path}` has no ordinary token to keep. Add "
                "text."
            )
        self.world.by_first(lambda: self._finish(done))

    def _round(self, first: int, left: int | None, channels: dict[str, Channels]) -> list[Json]:
        """Write the shards from `first` on, one a rank, and return their lines; `left` rows are wanted."""
        number, started = first + self.world.rank, time.monotonic()
        rows, n_left_out = None, 0

        def read() -> int:
            nonlocal rows, n_left_out
            if number < self.source.n_blocks:
                rows, n_left_out = self._captured.pop(number, None) or self.source.whole(number)
            return 0 if rows is None else len(rows)

        counts = self.world.all_do(read)
        if rows is not None and left is not None:
            left -= sum(counts[: self.world.rank])
            rows = _first(rows, left) if left > 0 else None

        def write() -> Json:
            if rows is None:  # the ranks before have all that there is, or all that is wanted
                return {}
            line = self._write(number, rows, channels)
            return line | {"n_not_finite": n_left_out, "seconds": time.monotonic() - started}

        return [line for line in self.world.all_do(write) if line]

    def _note(self, line: Json) -> None:
        """Record that a shard is whole."""
        with (self.folder / DONE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def forget(self) -> None:
        """Remove what an interrupted call left, but not the lock."""
        shutil.rmtree(self.folder / "shards", ignore_errors=True)
        for name in (PLAN, DONE, CHANNELS):
            (self.folder / name).unlink(missing_ok=True)

    def _begin(self) -> list[Json]:
        """Return a line for each shard that is there already, and check that they are of this plan."""
        plan = self.folder / PLAN
        if not plan.is_file():
            self.forget()
            write_json(plan, self.plan)
        _check_same(self.folder, json.loads(plan.read_text(encoding="utf-8")), self.plan)
        (self.folder / "shards").mkdir(exist_ok=True)
        lines = self.folder / DONE
        if not lines.is_file():
            return []
        done: list[Json] = []
        for text in lines.read_text(encoding="utf-8").splitlines(keepends=True):
            if not text.endswith("\n"):  # killed while it was written: that shard is made again
                break
            line: Json = json.loads(text)
            file = self.folder / shard_name(len(done))
            if not file.is_file() or file.stat().st_size != line["bytes"]:
                break
            done.append(line)
        lines.write_text("".join(json.dumps(line) + "\n" for line in done), encoding="utf-8")
        return done

    def _check_space(self, total: int, done: list[Json]) -> None:
        each = sum(bytes_per_vector(self.config.dtype, width) for width in self.widths.values())
        missing = total * (each + ROW_BYTES) - sum(line["bytes"] for line in done)
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise StorageFullError(
                f"About {missing / 2**30:.2f} GiB are to be written to `{self.out.parent}`, which has "
                f"{free / 2**30:.2f} GiB free. Free some space, keep fewer `n_tokens` or sites, or use "
                "`dtype` int8."
            )

    def _channels(self, done: list[Json]) -> dict[str, Channels]:
        """Return centre and spread of each site's channels, measured on the first shard."""
        if self.config.dtype != "int8":
            return {}
        path = self.folder / CHANNELS
        self.world.by_first(lambda: self._measure(path) if not (path.is_file() and done) else None)
        saved = safetensors.torch.load_file(path)
        return {
            site: Channels(saved[f"{site}.centre"], saved[f"{site}.spread"]) for site in self.widths
        }

    def _measure(self, path: Path) -> None:
        """Measure the channels on the first shard, and write what they are to `path`."""
        self._captured[0] = self.source.whole(0)
        rows = self._captured[0][0]
        if len(rows) == 0:
            raise ConfigError(
                f"The first contexts drawn from the {self.config.split} split of `{self.tokens.path}` "
                "have no ordinary token. Use a larger `shard_tokens`, or add text."
            )
        columns = self.source.columns.items()
        found = {site: measured(rows.x[:, own]) for site, own in columns}
        tensors = {f"{site}.centre": c.centre.cpu() for site, c in found.items()}
        tensors |= {f"{site}.spread": c.spread.cpu() for site, c in found.items()}
        _save(tensors, path)

    def _write(self, number: int, rows: Batch, channels: dict[str, Channels]) -> Json:
        """Write one shard and return its line: size, hash, and what rounding cost each site."""
        context, position = rows.rows // self.tokens.context, rows.rows % self.tokens.context
        ids = torch.from_numpy(self.tokens.tokens(context.numpy()))
        tensors = {"rows": rows.rows, "tokens": ids[torch.arange(len(ids)), position].int()}
        errors: dict[str, list[float]] = {}
        for site, columns in self.source.columns.items():
            x = rows.x[:, columns].cpu()
            tensors |= _encoded(site, x, self.config.dtype, channels.get(site))
            errors[site] = _errors(tensors, site, x, channels.get(site))
        path = self.folder / shard_name(number)
        _save(tensors, path)
        return {"n_rows": len(rows), "errors": errors, **artifact.file_entry(path)}

    def _finish(self, done: list[Json]) -> None:
        known = {
            shard_name(i): {k: line[k] for k in ("bytes", "sha256")} for i, line in enumerate(done)
        }
        n_rows, n_bytes = sum(x["n_rows"] for x in done), sum(x["bytes"] for x in done)
        summary: Json = {
            "n_rows": n_rows,
            "n_not_finite": sum(line["n_not_finite"] for line in done),
            "rows_per_shard": [line["n_rows"] for line in done],
            "bytes_per_value": n_bytes / (n_rows * sum(self.widths.values())),
            "fvu": {site: _fvu([line["errors"][site] for line in done]) for site in self.widths},
            "seconds": round(sum(line["seconds"] for line in done), 1),
        }
        for stray in (self.folder / "shards").iterdir():
            if f"shards/{stray.name}" not in known:
                stray.unlink()
        inputs = {"model": self.plan["model"], "tokens": self.plan["tokens"]}
        artifact.adopt(
            self.folder,
            self.out,
            kind=KIND,
            config=self.plan,
            inputs=inputs,
            seed=self.config.seed,
            summary=summary,
            known=known,
        )
        for name in (PLAN, DONE, LOCK):
            (self.out / name).unlink()


def tokens_of(tokens: TokenStore, split: Split) -> int:
    """Return how many ordinary tokens a split has at most: all but each context's first."""
    return tokens.n_tokens(split) - tokens.n_contexts(split)


def _first(rows: Batch, n: int) -> Batch:
    return Batch(rows.x[:n], rows.target[:n], rows.rows[:n])


def _encoded(
    site: str, x: Tensor, dtype: StoredType, channels: Channels | None
) -> dict[str, Tensor]:
    if channels is not None:
        q, scale = packed(x, channels)
        return {site: q, f"{site}{SCALE}": scale}
    return {site: x.bfloat16() if dtype == "bfloat16" else x.contiguous()}


def _errors(
    tensors: dict[str, Tensor], site: str, x: Tensor, channels: Channels | None
) -> list[float]:
    """Return what the FVU of what is kept is made of: squared error, and squared distance from the mean."""
    back = torch.empty_like(x)
    if channels is not None:
        unpack_(back, tensors[site], tensors[f"{site}{SCALE}"], channels)
    else:
        back.copy_(tensors[site])
    error = float((back - x).square().sum(dtype=torch.float64))
    spread = float((x - x.mean(0)).square().sum(dtype=torch.float64))
    return [error, spread]


def _fvu(parts: list[list[float]]) -> float:
    """Return the error's share of the variance; shards are drawn at random, so each has the same mean."""
    return sum(error for error, _ in parts) / max(sum(spread for _, spread in parts), 1e-300)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a file that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    try:
        safetensors.torch.save_file(tensors, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
    except (OSError, safetensors.SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise StorageFullError(
                f"The disk is full: `{path}` could not be written. The shards before it are whole; free "
                "some space and run the same command again."
            ) from error
        raise
    temporary.replace(path)


def _check_same(path: Path, before: Json, now: Json) -> None:
    changed = [f"`{key}`" for key in now if before.get(key) != now[key]]
    if changed:
        raise ResumeError(
            f"`{path}` holds activations that differ in {', '.join(changed)}. Choose another folder, or "
            "pass `--fresh` (`fresh=True`) to write it anew."
        )
