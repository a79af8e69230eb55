"""The one pass over the corpus: model, encoder, and everything that needs the activations themselves.

Each block of contexts is captured and encoded once. Its entries go to disk by token
(`sparse.py`) and, sorted by latent, to the scratch files of the transposition; its neurons go into
the correlations.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.core.progress import Bar, progress
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.latents import RaggedLatents
from monosem.features.correlation import Correlation
from monosem.features.sparse import FOLDER, LARGEST, SMALLEST, Block, SparseWriter, latent_dtype
from monosem.features.transposition import Transposition, stable_order
from monosem.metrics import stream
from monosem.metrics.stream import Place
from monosem.models.site import Site
from monosem.runtime.distributed import ALONE, World

SCRATCH, RANKS = "scratch", "ranks"
NEURONS = "mlp.hook_post"


@dataclass(frozen=True, eq=False)
class Streamed:
    """What the pass leaves, apart from files."""

    n_tokens: int
    """Ordinary tokens."""
    n_entries: int
    contexts: Int64[np.ndarray, " n_contexts"]
    transposition: Transposition
    correlation: Correlation


def run(
    dictionary: Dictionary[Any],
    place: Place,
    contexts: Int64[np.ndarray, " n_contexts"],
    folder: Path,
    *,
    batch_tokens: int,
    correlate: bool,
    world: World = ALONE,
) -> Streamed:
    """Stream `contexts` through model and dictionary, and write their activations into `folder`.

    Ranks of `world` have an even share of the blocks each; what the others leave in scratch folders of
    their own, the first one puts together. All return the same counts and correlations.
    """
    own = folder / RANKS / str(world.rank) if world.rank else folder
    step = Pass(
        dictionary=dictionary,
        place=place,
        neurons_site=neurons_of(place) if correlate else "",
        transposition=Transposition(own / SCRATCH, dictionary.n_latents),
        correlation=Correlation(dictionary.n_latents),
    )
    with (
        SparseWriter(own / FOLDER) as writer,
        step.transposition,
        progress("features", len(contexts)) as bar,
        torch.no_grad(),
    ):
        n_tokens = _stream(step, writer, contexts, batch_tokens, world, bar)
        if world.rank:
            writer.close(contexts)
            step.transposition.close()
        if world.size > 1:
            n_tokens = _put_together(step, writer, n_tokens, folder, world)
        if world.rank == 0:
            writer.close(contexts)
    return Streamed(n_tokens, writer.n_entries, contexts, step.transposition, step.correlation)


def _stream(
    step: "Pass",
    writer: SparseWriter,
    contexts: Int64[np.ndarray, " n_contexts"],
    batch_tokens: int,
    world: World,
    bar: Bar,
) -> int:
    """Take this rank's blocks, all ranks one each at a time; return how many of their tokens are ordinary.

    The first rank has the first block besides its share: the neurons of that one decide by what all are
    shifted.
    """
    per_block = max(1, batch_tokens // step.place.store.context)
    shares = world.shares(max(0, -(-len(contexts) // per_block) - 1))
    own = shares[world.rank]
    first, last = ((1 + n) * per_block for n in (own.start, own.stop))
    n_tokens, n_places = 0, first * step.place.store.context

    def take(block: stream.Block | None) -> int:
        nonlocal n_tokens, n_places
        if block is None:
            return 0
        writer.append(step.take(block, n_places))
        n_tokens += int(block.ordinary.sum())
        n_places += block.ordinary.numel()
        return len(block.tokens)

    if world.rank == 0:
        first, n_places = 0, 0
    blocks = stream.blocks(step.place.store, contexts[first:last], batch_tokens)
    bar.advance(world.by_first(lambda: take(next(blocks, None))))
    if world.size > 1 and step.neurons_site:
        model = step.place.model
        step.correlation.agree(world, model.width(step.neurons_site), model.device)
    for _ in range(max(share.stop - share.start for share in shares)):
        bar.advance(sum(world.all_do(lambda: take(next(blocks, None)))))
    return n_tokens


def _put_together(
    step: "Pass", writer: SparseWriter, n_tokens: int, folder: Path, world: World
) -> int:
    """Append what other ranks have written to the first one's files; return the tokens of all."""
    if step.neurons_site:
        step.correlation.sum_(world)

    def join() -> None:
        for rank in range(1, world.size):
            theirs = folder / RANKS / str(rank)
            writer.extend(theirs / FOLDER)
            step.transposition.extend(theirs / SCRATCH)
            shutil.rmtree(theirs)
        (folder / RANKS).rmdir()

    told = world.heard(n_tokens)
    world.by_first(join)
    return sum(told)


def neurons_of(place: Place) -> str:
    """Return the site of the neurons of the same block, "" for a site that is in no block."""
    layer = Site.parse(place.site).layer if len(place.reads) == 1 else None
    return "" if layer is None else f"blocks.{layer}.{NEURONS}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """Takes blocks of contexts one after the other."""

    dictionary: Dictionary[Any]
    place: Place
    neurons_site: str
    transposition: Transposition
    correlation: Correlation

    def take(self, block: stream.Block, start: int) -> Block:
        """Encode a block whose first token is at place `start`; return its entries by token."""
        ordinary = block.ordinary.flatten()
        x, neurons = self._capture(block, ordinary)
        latents = positive(self.dictionary.encode_sparse(x).ragged())
        values = self._stored(latents.values)
        counts = latents.offsets.diff().cpu().numpy()
        indices = latents.indices.cpu().numpy().astype(latent_dtype(self.dictionary.n_latents))
        self._by_latent(indices, values, counts, ordinary, neurons, start)
        all_counts = np.zeros(len(ordinary), np.int64)
        all_counts[ordinary.numpy()] = counts
        return Block(all_counts, indices, values.numpy())

    def _capture(
        self, block: stream.Block, ordinary: Bool[Tensor, " places"]
    ) -> tuple[Float[Tensor, "tokens d_in"], Float[Tensor, "tokens d_mlp"] | None]:
        """Return the activations of the ordinary tokens, and the neurons of the same tokens."""
        sites = dict.fromkeys(filter(None, (*self.place.reads, self.neurons_site)))
        seen = self.place.model.capture(block.tokens, list(sites))
        kept = ordinary.nonzero()[:, 0].to(self.place.model.device)
        vectors = {s: stream.vectors(x).flatten(0, 1)[kept] for s, x in seen.items()}
        x = torch.cat([vectors[site] for site in self.place.reads], 1)
        return x, vectors.get(self.neurons_site)

    def _by_latent(
        self,
        indices: np.ndarray,
        values: Float[Tensor, " entries"],
        counts: Int64[np.ndarray, " tokens"],
        ordinary: Bool[Tensor, " places"],
        neurons: Float[Tensor, "tokens d_mlp"] | None,
        start: int,
    ) -> None:
        n_latents = self.dictionary.n_latents
        order = stable_order(indices, n_latents)
        rows = np.repeat(np.arange(len(counts), dtype=np.int32), counts)[order]
        ordered = values[torch.from_numpy(order)]
        n_fired = np.bincount(indices, minlength=n_latents)
        places = np.flatnonzero(ordinary.numpy())[rows]
        self.transposition.append(start, n_fired, places, ordered.numpy())
        if neurons is not None:
            offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(n_fired)]).astype(np.int64))
            if neurons.device.type == "mps":  # which has no double precision
                neurons = neurons.cpu()
            device = neurons.device
            self.correlation.add(
                neurons,
                ordered.float().to(device),
                torch.from_numpy(rows).to(device),
                offsets.to(device),
            )

    def _stored(self, values: Float[Tensor, " entries"]) -> Float[Tensor, " entries"]:
        """Return values as they are stored: float16, the tiniest kept above zero."""
        if len(values) and not float(values.max()) <= LARGEST:
            raise ConfigError(
                f"A latent of `{self.dictionary.architecture}` has activation {float(values.max()):.6g}; "
                f"features are stored in float16, up to {LARGEST:,.0f}. Scale the dictionary's latents "
                "down (their decoder rows up), or leave out the tokens with such activations."
            )
        return values.clamp(min=SMALLEST).half().cpu()


def positive(latents: RaggedLatents) -> RaggedLatents:
    """Return the entries above zero."""
    kept = latents.values > 0
    if bool(kept.all()):
        return latents
    counts = torch.zeros_like(latents.offsets[1:])
    counts.index_add_(0, latents.rows()[kept], torch.ones_like(latents.rows()[kept]))
    return RaggedLatents(
        values=latents.values[kept],
        indices=latents.indices[kept],
        offsets=torch.cat([latents.offsets[:1], counts.cumsum(0)]),
        n_latents=latents.n_latents,
    )
