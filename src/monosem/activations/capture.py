"""CaptureSource: activations captured from a live model, shuffled in blocks.

    epoch  = the contexts of the split in a seeded permutation
    block  = the next `buffer_tokens` tokens of it, captured at once, ordinary tokens kept
    stream = the rows of each block in a seeded permutation, block after block, epoch after epoch

Contexts of a block come from all over the corpus, so its rows mix documents: at the default of 2^18
tokens a block holds 2,048 contexts of 128 tokens, a sample of up to 2,048 documents, and a batch of
4,096 rows has about two rows of each context. Public trainers mix 20 to 130 contexts that follow
each other in the corpus. Memory: buffer_tokens * (d_in + d_out) * 4 bytes (d_out only where another
site is the target), 512 MiB at width 512.

A sample is drawn from the block at hand, which is captured anyway, and only where that holds fewer rows
from other contexts, captured for it.

The state is (epoch, block, position), see blocks.py. A resumed run captures one block again, in the same
passes, and goes on bit for bit. Only ordinary tokens are served: no special token, no first position.

Rows that are not finite are left out, counted in `n_not_finite`, and the first of a block is reported
with its site and token; a block of which more than 1 % are so is refused.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from monosem.activations.blocks import Block, BlockSource, HeldRows
from monosem.activations.source import Batch
from monosem.core.config import Json
from monosem.core.errors import (
    ConfigError,
    ShapeMismatchError,
    TokenizerMismatchError,
)
from monosem.models.language_model import LanguageModel
from monosem.runtime.distributed import ALONE, World
from monosem.text.tokenizer import tokenizer_hash
from monosem.text.tokens import Split, TokenStore

MOST_NOT_FINITE = 0.01
"""Share of a block's rows that may be left out because they are not finite."""
PASS_TOKENS = 8192
"""Tokens of one pass of the model, at most."""
PASS_VALUES = 2**20
"""Neurons of one pass on a CPU, so that what a layer puts out stays in the cache for the next."""


class CaptureSource(BlockSource):
    """Activations of `model` at `read`, paired with those at `write` for a transcoder."""

    def __init__(
        self,
        model: LanguageModel,
        store: TokenStore,
        read: str | Sequence[str],
        write: str | Sequence[str] | None = None,
        *,
        batch_size: int = 4096,
        buffer_tokens: int = 2**18,
        n_rows: int | None = None,
        split: Split = "train",
        seed: int = 0,
        device: torch.device | str | None = None,
        ahead: bool = False,
        world: World = ALONE,
    ) -> None:
        """Check that model, store and sites fit together; nothing is captured yet.

        Ranks of `world` share out the passes of the model, and have all rows: the stream is that of one.

        Where it is known that no more than `n_rows` will be served, a block has no more contexts than
        hold so many. Rows are held and served on `device`, the model's if None. With `ahead` the next
        block is captured by a thread while this one is served, which pays where that is another one.
        """
        check_fit(model, store)
        reads = _widths(model, read)
        writes = reads if write is None else _widths(model, write)
        there = model.device if device is None else torch.device(device)
        super().__init__(reads, writes, batch_size=batch_size, seed=seed, device=there, ahead=ahead)
        self._contexts = np.asarray(store.contexts(split), dtype=np.int64)
        if len(self._contexts) == 0:
            raise ConfigError(f"`{store.path}` has no contexts in the {split} split. Add text.")
        self._per_block = max(1, min(buffer_tokens // store.context, len(self._contexts)))
        if batch_size > self._per_block * store.context:
            raise ConfigError(
                f"A buffer of {self._per_block * store.context:,} tokens cannot mix a batch of "
                f"{batch_size:,}. Use a larger `buffer_tokens`, a smaller `batch_size`, or more text."
            )
        self._model, self._store, self._world = model, store, world
        self._orders: dict[int, np.ndarray] = {}
        if n_rows is not None:
            self._per_block = self._enough(self._contexts_at(0, 0), n_rows)

    @property
    def block_bytes(self) -> int:
        """Memory of the activations of one block."""
        widths = self.d_in + (0 if self.same else self.d_out)
        return self._per_block * self._store.context * widths * 4

    @property
    def n_blocks(self) -> int:
        """Blocks of an epoch."""
        return -(-len(self._contexts) // self._per_block)

    def _elsewhere(self, n: int, generator: np.random.Generator) -> Batch:
        """Return `n` rows of contexts outside the block at hand, all there are if fewer."""
        here = self._contexts_at(self._epoch, self._block)
        others = generator.permutation(np.setdiff1d(self._contexts, here))
        wanted = -(-n // self._store.context)
        while wanted < len(others) and self._ordinary(others[:wanted]).sum() < n:
            wanted *= 2
        chosen = others[: self._enough(others[:wanted], n)]
        mask = self._ordinary(chosen)
        kept = np.zeros(mask.size, dtype=np.bool_)
        kept[generator.permutation(mask.ravel().nonzero()[0])[:n]] = True
        return self._finite(self._capture(chosen, kept.reshape(mask.shape)))[0]

    def _made(self, epoch: int, block: int) -> Block:
        contexts = self._contexts_at(epoch, block)
        rows, bad, report = self._finite(self._capture(contexts, self._ordinary(contexts)))
        return Block(HeldRows(rows), self._order_within(epoch, block, len(rows)), bad, report)

    def _finite(self, rows: Batch) -> tuple[Batch, int, str]:
        """Return the finite rows, how many were not, and what to say about them."""
        sums = [rows.x.sum()] if rows.target is rows.x else [rows.x.sum(), rows.target.sum()]
        if all(bool(total.isfinite()) for total in sums):
            return rows, 0, ""
        good = rows.x.isfinite().all(1) & rows.target.isfinite().all(1)
        bad = (~good).nonzero()[:, 0]
        if len(bad) == 0:  # finite numbers whose sum is not
            return rows, 0, ""
        where = self._place(rows, int(bad[0]))
        report = f"{len(bad)} of {len(rows)} activations are not finite, the first {where}"
        if len(bad) > MOST_NOT_FINITE * len(rows):
            raise ConfigError(
                f"{report}. More than {MOST_NOT_FINITE:.0%} of a block cannot be left out. Run the model "
                "in float32 or bfloat16, or choose another site."
            )
        same = rows.target is rows.x
        x = rows.x[good]
        kept = Batch(x, x if same else rows.target[good], rows.rows[good.cpu()])
        return kept, len(bad), f"{report}; they are left out.\n"

    def _place(self, rows: Batch, which: int) -> str:
        """Return where row `which` comes from, for a message."""
        row = int(rows.rows[which])
        context, position = divmod(row, self._store.context)
        token = int(self._store.tokens([context])[0, position])
        sites = self._reads if not bool(rows.x[which].isfinite().all()) else self._writes
        return (
            f"at {', '.join(sites)}, document `{self._store.document(row).name}`, context {context}, "
            f"position {position} (token {token})"
        )

    def _contexts_at(self, epoch: int, block: int) -> Int64[np.ndarray, " n"]:
        start = block * self._per_block
        return self._contexts_of(epoch)[start : start + self._per_block]

    def _contexts_of(self, epoch: int) -> Int64[np.ndarray, " n_contexts"]:
        if epoch not in self._orders:
            order = np.random.default_rng([self._seed, 0, epoch]).permutation(self._contexts)
            # this epoch's and the last one's: a block may be made ahead
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1} | {
                epoch: order
            }
        return self._orders[epoch]

    def _ordinary(self, contexts: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, "n pos"]:
        return self._store.ordinary(self._store.tokens(contexts))

    def _enough(self, contexts: Int64[np.ndarray, " n"], n: int) -> int:
        """Return how many of `contexts`, from the first on, hold `n` ordinary tokens; all if they do not."""
        counts = self._ordinary(contexts).sum(1).cumsum()
        return min(len(contexts), int(np.searchsorted(counts, n)) + 1)

    def _capture(self, contexts: Int64[np.ndarray, " n"], mask: Bool[np.ndarray, "n pos"]) -> Batch:
        """Return the activations of the tokens that `mask` keeps, context after context."""
        which, position = mask.nonzero()
        rows = torch.from_numpy(contexts[which] * self._store.context + position)
        kept = [
            torch.empty(len(rows), sum(side.values()), dtype=torch.float32, device=self.device)
            for side in self._sides
        ]
        starts = range(0, len(contexts), self._per_pass)
        chosen = [slice(start, start + self._per_pass) for start in starts]
        chosen = [some for some in chosen if mask[some].any()]
        ends = np.cumsum([0, *(int(mask[some].sum()) for some in chosen)]).tolist()
        shares = self._world.shares(len(chosen))
        mine = shares[self._world.rank]
        own = [held[ends[mine.start] :] for held in kept]
        self._world.all_do(lambda: self._pass(contexts, mask, chosen[mine], own))
        for source, share in enumerate(shares):
            for held in kept:
                self._world.copy_(held[ends[share.start] : ends[share.stop]], source)
        return Batch(kept[0], kept[-1], rows)

    def _pass(
        self,
        contexts: Int64[np.ndarray, " n"],
        mask: Bool[np.ndarray, "n pos"],
        chosen: list[slice],
        kept: list[Tensor],
    ) -> None:
        """Put what the chosen contexts have where they are read, and written, into `kept`."""
        sites = list(dict.fromkeys(site for side in self._sides for site in side))
        passes = (torch.from_numpy(self._store.tokens(contexts[some])) for some in chosen)
        done = 0
        for some, captured in zip(chosen, self._model.captures(passes, sites), strict=True):
            self._check_wanted()
            here = torch.from_numpy(mask[some].ravel().nonzero()[0])
            for held, side in zip(kept, self._sides, strict=True):
                parts = held[done : done + len(here)].split(list(side.values()), 1)
                for part, site in zip(parts, side, strict=True):
                    x = captured[site].flatten(2).flatten(0, 1)
                    part[:] = x[here.to(x.device)]
            done += len(here)

    @property
    def _sides(self) -> list[dict[str, int]]:
        """What is read, and what is written where that is something else."""
        return [self._reads] if self.same else [self._reads, self._writes]

    @property
    def _per_pass(self) -> int:
        """Contexts of one pass."""
        tokens = PASS_TOKENS
        if self._model.device.type == "cpu":
            wide = {"blocks.0.mlp.hook_post", "blocks.0.attn.hook_z"} & set(self._model.sites())
            tokens = min(tokens, PASS_VALUES // max(map(self._model.width, wide)))
        return max(1, tokens // self._store.context)

    def _identity(self) -> Json:
        return {
            "model": self._model.hash,
            "tokens": self._store.hash,
            "read": ", ".join(self._reads),
            "write": ", ".join(self._writes),
            "batch_size": self.batch_size,
            "contexts_per_block": self._per_block,
            "n_contexts": len(self._contexts),
            "seed": self._seed,
        }


def _widths(model: LanguageModel, sites: str | Sequence[str]) -> dict[str, int]:
    """Return the sites' full names, each once, with their widths."""
    several = (sites,) if isinstance(sites, str) else sites
    names = dict.fromkeys(str(model.check_site(site)) for site in several)
    return {name: model.width(name) for name in names}


def check_fit(model: LanguageModel, store: TokenStore) -> None:
    """Raise unless `model` can read the tokens of `store`, and they mean to it what they say."""
    if store.context > model.context:
        raise ShapeMismatchError(
            f"`{store.path}` has contexts of {store.context} tokens; `{model.name}` has "
            f"{model.context} positions. Make the tokens with `--context {model.context}`."
        )
    tokenizer = model.tokenizer
    own = tokenizer_hash(tokenizer) if isinstance(tokenizer, PreTrainedTokenizerFast) else None
    if store.vocab_size > model.vocab_size or own not in (None, store.tokenizer_hash):
        raise TokenizerMismatchError(
            f"`{store.path}` was made with another tokenizer ({store.vocab_size:,} tokens) than that of "
            f"`{model.name}` (vocabulary {model.vocab_size:,}). Make the tokens with the model's own, in "
            f"another folder: `monosem tokens --tokenizer {model.name} --out FOLDER`."
        )
