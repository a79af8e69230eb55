"""What dictionaries are held against: activations of real models, kept in memory, and known features.

    synthetic       SparseFeatures: 512 correlated features with power-law frequencies in 128 dimensions
    1L-a            the embedded model's 512 neurons, on the Python sources of this machine
    stories260k, babyllama-361
                    models of MONOSEM_TEST_DATA on its tinystories: residual stream after block 2
    a folder        --model PATH --tokens PATH --site SITE

A set has rows to train on, rows to choose a learning rate by, and rows to report, of which the last two
are the held-out split's. Only ordinary tokens are taken.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from monosem.activations.capture import CaptureSource
from monosem.metrics.stream import Place
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import Split, TokensConfig, TokenStore, build_token_store
from monosem.toy.sparse_features import SparseFeatures, SparseFeaturesConfig

WORLD = SparseFeaturesConfig(d=128, n_features=512, l0=20.0, power=0.5, noise=0.01)
CHOOSE = 0.25
"""Share of the held-out rows by which learning rates are chosen; the others are reported."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """One set of activations."""

    name: str
    train: Tensor
    choose: Tensor
    report: Tensor
    ks: tuple[int, ...]
    """Active latents at which kinds are compared."""
    place: Place | None = None
    """The model and the text, where there are any, for losses."""
    truth: Tensor | None = None
    """True directions, where they are known."""

    @property
    def mean(self) -> Tensor:
        """What the variance is centred on: the mean of the rows to train on."""
        return self.train.mean(0, dtype=torch.float64)

    @property
    def d(self) -> int:
        """Width of an activation."""
        return self.train.shape[1]


def synthetic(n_rows: int, n_heldout: int) -> Data:
    """Sums of known directions."""
    world = SparseFeatures(WORLD)
    rows = world.activations(n_heldout, seed=2)
    choose, report = _parts(rows)
    return Data(
        name="synthetic",
        train=world.activations(n_rows, seed=1),
        choose=choose,
        report=report,
        ks=(10, 20, 50, 100),
        truth=world.directions,
    )


def captured(
    name: str, place: Place, n_rows: int, n_heldout: int, ks: tuple[int, ...] = (20, 50, 100, 200)
) -> Data:
    """Activations of a model at a site; fewer rows where the text has fewer."""
    choose, report = _parts(_rows(place, "heldout", n_heldout))
    train = _rows(place, "train", n_rows)
    ks = tuple(k for k in ks if k < place.width)
    return Data(name=name, train=train, choose=choose, report=report, ks=ks, place=place)


def _parts(rows: Tensor) -> tuple[Tensor, Tensor]:
    cut = round(CHOOSE * len(rows))
    return rows[:cut], rows[cut:]


@torch.no_grad()
def _rows(place: Place, split: Split, n: int) -> Tensor:
    source = CaptureSource(
        place.model,
        place.store,
        place.site,
        batch_size=1,
        buffer_tokens=n + n // 16 + place.store.context,
        split=split,
    )
    return source.sample(n).x


def _embedded(n_rows: int, n_heldout: int, folder: Path) -> Data:
    wanted = 2 * n_rows + 12 * n_heldout  # a tenth of the documents is held out
    config = TokensConfig(corpora=("python",), tokenizer="1L-a", max_tokens=wanted)
    store = build_token_store(config, folder / f"1L-a-{wanted}")
    place = Place(LanguageModel.load("1L-a"), store, "blocks.0.mlp.hook_post")
    return captured("1L-a", place, n_rows, n_heldout)


def _real(name: str, ks: tuple[int, ...]) -> Callable[[int, int, Path], Data]:
    def build(n_rows: int, n_heldout: int, folder: Path) -> Data:
        root = Path(os.environ["MONOSEM_TEST_DATA"])
        corpus = str(root / "corpora" / "tinystories" / "tinystories.txt")
        path = root / "models" / name
        config = TokensConfig(corpora=(corpus,), tokenizer=str(path), context=256)
        store = build_token_store(config, folder / name)
        place = Place(LanguageModel.load(str(path)), store, "blocks.2.hook_resid_post")
        return captured(name, place, n_rows, n_heldout, ks)

    return build


SETS: dict[str, Callable[[int, int, Path], Data]] = {
    "synthetic": lambda n_rows, n_heldout, _: synthetic(n_rows, n_heldout),
    "1L-a": _embedded,
    "stories260k": _real("stories260k", (5, 10, 20, 50)),
    "babyllama-361": _real("babyllama-361", (10, 20, 50, 100)),
}


def given(model: str, tokens: str, site: str, n_rows: int, n_heldout: int) -> Data:
    """Activations of a model and text that were named on the command line."""
    place = Place(LanguageModel.load(model), TokenStore.open(tokens), site)
    return captured(f"{Path(model).parent.name} {site}", place, n_rows, n_heldout)


def cache() -> Path:
    """Where token stores are kept: beside other temporary files, unless QUALITY_CACHE says where."""
    return Path(os.environ.get("QUALITY_CACHE", Path(tempfile.gettempdir()) / "monosem-quality"))
