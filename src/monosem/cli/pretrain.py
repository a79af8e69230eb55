"""`monosem pretrain`: train a small language model of your own on a token store."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from monosem.core.artifact import check_target, read
from monosem.core.config import Json
from monosem.core.errors import ConfigError
from monosem.rendering.table import text as text_table
from monosem.runtime.device import resolve
from monosem.text.store import TokenStore
from monosem.training.pretrain import KIND, PretrainConfig, pretrain, recipe


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a small language model and save it as an ordinary Hugging Face folder."""

    preset: Annotated[str, tyro.conf.Positional] = "1L"
    """Shape: 1L (one layer, d_model 128, 512 ReLU neurons), 1L-a, 1L-b (another seed), 1L-gelu, 1L-silu,
    1L-solu, 1L-solu-norm, 2L, 2L-attn-only, 2L-gelu, 2L-silu,
    3L-attn-only, 4L or tiny."""
    tokens: Path = Path("runs/tokens")
    """Token store to train on; its held-out split validates."""
    out: Path = Path("runs/language-model")
    """Folder to write; the model lies in its `model` folder."""
    run: tyro.conf.OmitArgPrefixes[PretrainConfig] = field(default_factory=PretrainConfig)
    """Settings of the run."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    fresh: bool = False
    """Start anew, even where a finished or interrupted run lies."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: list[str]) -> int:
    """Parse, train, print the losses beside the n-gram models'."""
    given = parsed(arguments)
    config, shape = given.run, given.run.model
    check_target(given.out, KIND)
    store = TokenStore.open(given.tokens)
    if store.context > shape.context:
        raise ConfigError(
            f"`{given.tokens}` has contexts of {store.context} tokens; preset `{given.preset}` takes at "
            f"most {shape.context}. Make the tokens with `--context {shape.context}`."
        )
    folder = pretrain(config, store, given.out, device=resolve(given.device), fresh=given.fresh)
    summary = read(given.out, KIND).summary
    if given.json:
        print(json.dumps({"model": str(folder), **summary}, indent=2))
        return 0
    print(f"A language model of {summary['n_parameters']:,} parameters: {folder}")
    print(_table(summary))
    return 0


def parsed(arguments: list[str]) -> Arguments:
    """Return the arguments, with the options of a shape on top of the preset that they name."""
    named = tyro.cli(Arguments, prog="monosem pretrain", args=arguments).preset
    default = Arguments(preset=named, run=recipe(named))
    return tyro.cli(Arguments, prog="monosem pretrain", args=arguments, default=default)


def _table(summary: Json) -> str:
    rows = [[name, f"{summary[key]:.3f}"] for name, key in _ROWS]
    return text_table(["held-out loss", "nats a token"], rows)


_ROWS = (
    ("this model", "loss"),
    ("Kneser–Ney trigram", "trigram"),
    ("Kneser–Ney bigram", "bigram"),
    ("Kneser–Ney unigram", "unigram"),
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
