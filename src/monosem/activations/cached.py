"""StoreSource: the rows of an activation store, shuffled over the whole store.

    chunk  = 256 rows that follow each other in a shard, which is itself in random order
    epoch  = all chunks of the store in a seeded permutation
    block  = the next `buffer_tokens` rows of it, read at once
    stream = the rows of each block in a seeded permutation, block after block, epoch after epoch

A block takes its chunks from all shards, so a batch mixes documents as a permutation of the whole store
does, though no more than a block is in memory, and that as it is stored: in int8 about a byte a value,
twice that while the next one is read by a thread, as is done where rows go to another device. A batch
is unpacked when it is due. Disks read a chunk in one piece, 128 KiB at width 512 in int8.

With `shuffled` False chunks and rows come as they were captured, in the order of a live source with the
same seed and blocks as large as the shards.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from monosem.activations.blocks import Block, BlockSource
from monosem.activations.codec import bytes_per_vector
from monosem.activations.source import Batch
from monosem.activations.store import SCALE, ActivationStore
from monosem.core.config import Json
from monosem.core.errors import ConfigError

CHUNK = 256
"""Rows that are read in one piece."""


class StoreSource(BlockSource):
    """Activations of `store` at `read`, paired with those at `write` for a transcoder."""

    def __init__(
        self,
        store: ActivationStore,
        read: str | Sequence[str],
        write: str | Sequence[str] | None = None,
        *,
        batch_size: int = 4096,
        buffer_tokens: int = 2**18,
        seed: int = 0,
        device: torch.device | str = "cpu",
        ahead: bool | None = None,
        shuffled: bool = True,
    ) -> None:
        """Check that the store has the sites; nothing is read yet."""
        reads = store.check_sites([read] if isinstance(read, str) else read)
        other = list(reads) if write is None else write
        writes = store.check_sites([other] if isinstance(other, str) else other)
        there = torch.device(device)
        # on a CPU the thread would only take the time of the steps
        threaded = there.type != "cpu" if ahead is None else ahead
        super().__init__(
            reads, writes, batch_size=batch_size, seed=seed, device=there, ahead=threaded
        )
        self._store = store
        self._chunks = _chunks(store.rows_per_shard)
        self._per_block = max(1, min(buffer_tokens // CHUNK, len(self._chunks)))
        self._shuffled = shuffled
        if batch_size > min(buffer_tokens, store.n_rows):
            raise ConfigError(
                f"A batch of {batch_size:,} rows cannot come from a buffer of {buffer_tokens:,} over the "
                f"{store.n_rows:,} rows of `{store.path}`. Use a larger `buffer_tokens`, a smaller "
                "`batch_size`, or capture more."
            )

    @property
    def block_bytes(self) -> int:
        """Memory of the activations of one block."""
        sides = [self._reads] if self.same else [self._reads, self._writes]
        each = [bytes_per_vector(self._store.dtype, w) for side in sides for w in side.values()]
        return self._per_block * CHUNK * sum(each)

    @property
    def n_blocks(self) -> int:
        """Blocks of an epoch."""
        return -(-len(self._chunks) // self._per_block)

    def _made(self, epoch: int, block: int) -> Block:
        start = block * self._per_block
        rows = self._read(self._order(epoch)[start : start + self._per_block])
        return Block(rows, self._order_within(epoch, block, len(rows)))

    def _elsewhere(self, n: int, generator: np.random.Generator) -> Batch:
        """Return `n` rows of chunks outside the block at hand, all there are if fewer."""
        start = self._block * self._per_block
        here = self._order(self._epoch)[start : start + self._per_block]
        others = np.setdiff1d(np.arange(len(self._chunks)), here)
        # four times as many chunks as n rows fill, so that they come from all over the store
        found = self._read(generator.permutation(others)[: 4 * -(-n // CHUNK)])
        return found.pick(torch.from_numpy(generator.permutation(len(found))[:n]))

    def _order(self, epoch: int) -> Int64[np.ndarray, " n_chunks"]:
        if not self._shuffled:
            return np.arange(len(self._chunks))
        return np.random.default_rng([self._seed, 0, epoch]).permutation(len(self._chunks))

    def _order_within(self, epoch: int, block: int, n: int) -> Int64[Tensor, " n_rows"]:
        if not self._shuffled:
            return torch.arange(n)
        return super()._order_within(epoch, block, n)

    def _read(self, chunks: Int64[np.ndarray, " n"]) -> "StoredRows":
        """Return the rows of some chunks, shard after shard, as they are stored."""
        wanted = self._chunks[np.sort(chunks)]
        n_rows = int((wanted[:, 2] - wanted[:, 1]).sum())
        names = [*dict.fromkeys((*self._reads, *self._writes))]
        held: dict[str, Tensor] = {}
        rows = torch.empty(n_rows, dtype=torch.int64)
        done, number, shard = 0, -1, None
        for of, start, stop in wanted.tolist():
            self._check_wanted()
            if shard is None or of != number:
                number, shard = of, self._store.shard(of)
            there = slice(done, done + stop - start)
            rows[there] = shard.rows("rows", start, stop)
            for name in names:
                for key, part in self._store.parts(shard, name, start, stop).items():
                    if key not in held:
                        held[key] = part.new_empty(n_rows, *part.shape[1:])
                    held[key][there] = part
            done += stop - start
        held = {key: part.to(self.device) for key, part in held.items()}
        return StoredRows(self._store, held, rows, self._reads, self._writes)

    def _identity(self) -> Json:
        return {
            "activations": self._store.hash,
            "read": ", ".join(self._reads),
            "write": ", ".join(self._writes),
            "batch_size": self.batch_size,
            "chunks_per_block": self._per_block,
            "shuffled": self._shuffled,
            "seed": self._seed,
        }


class StoredRows:
    """Rows of a store in the type they are kept in."""

    def __init__(
        self,
        store: ActivationStore,
        held: dict[str, Tensor],
        rows: Int64[Tensor, " n_rows"],
        reads: dict[str, int],
        writes: dict[str, int],
    ) -> None:
        """`held` are the tensors of a shard by name, on the device where rows are served."""
        self._store, self._held, self._rows = store, held, rows
        self._reads, self._writes = reads, writes

    def __len__(self) -> int:
        return len(self._rows)

    def pick(self, which: Int64[Tensor, " n"]) -> Batch:
        """Return the rows `which` in float32."""
        x = self._side(self._reads, which)
        same = list(self._reads) == list(self._writes)
        return Batch(x, x if same else self._side(self._writes, which), self._rows[which])

    def _side(self, side: dict[str, int], which: Int64[Tensor, " n"]) -> Tensor:
        """Return the sites of one side next to one another."""
        device = self._held[next(iter(side))].device
        there = which.to(device)
        out = torch.empty(len(which), sum(side.values()), device=device)
        for columns, site in zip(out.split(list(side.values()), 1), side, strict=True):
            keys = [site] if self._store.dtype != "int8" else [site, f"{site}{SCALE}"]
            self._store.unpack_(columns, {key: self._held[key][there] for key in keys}, site)
        return out


def _chunks(rows_per_shard: list[int]) -> Int64[np.ndarray, "n_chunks 3"]:
    """Return shard, first row and end of each chunk."""
    found = [
        (number, start, min(start + CHUNK, n))
        for number, n in enumerate(rows_per_shard)
        for start in range(0, n, CHUNK)
    ]
    return np.asarray(found, dtype=np.int64).reshape(-1, 3)
