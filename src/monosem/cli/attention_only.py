"""`monosem attention-only`: convert a language model into one without MLPs, and say how near it is."""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from monosem.cli.texts import LONGEST, rows_of_text
from monosem.core.errors import ArtifactKindError, ConfigError
from monosem.rendering import table

if TYPE_CHECKING:
    from torch import Tensor

    from monosem.constructions.comparison import Comparison, Size
    from monosem.models.language_model import LanguageModel

HELP = "convert a language model into one whose neurons are attention heads"

_DTYPES = ("float64", "float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Convert a language model into an attention-only one, each neuron a head, and compare the two."""

    model: Annotated[str, tyro.conf.Positional]
    """A model of the package, a folder, or a name on the hub: GPT-2, GPT-NeoX, Llama or Gemma type."""
    out: Path
    """The folder to write, an ordinary Hugging Face one; every verb takes it as a model."""
    n_heads: int = 3
    """Heads for each neuron's activation function, at most; exact functions (SiLU) take one."""
    gain: float = 2.0**20
    """Gain of ReLU's head; it errs by 0.27846 over it."""
    n_terms: int = 2
    """Heads for each product of a gated MLP; the error is of order 2·n_terms + 1."""
    mode: str = "gathered"
    """`gathered`: softmax over the two keys of a query; `dense`: over all keys, under a mask."""
    dtype: str = "float32"
    """Number type of the converted model: float64, float32 or bfloat16."""
    text: Path | None = None
    """A text file to compare the two on; without it, random tokens."""
    n_contexts: int = 16
    """Rows of tokens to compare on, each at most 256 long."""
    json: bool = False
    """Print the report as JSON."""


def main(arguments: list[str]) -> int:
    """Convert, save, compare, and print the report."""
    given = tyro.cli(Arguments, args=arguments, prog="monosem attention-only", description=HELP)
    if given.dtype not in _DTYPES:
        raise ConfigError(f"`dtype` must be one of {', '.join(_DTYPES)}, got `{given.dtype}`.")
    if given.out.is_file():
        raise ArtifactKindError(f"`{given.out}` is a file. Choose a folder for `--out`.")
    if given.out.is_dir() and any(given.out.iterdir()):
        raise ArtifactKindError(
            f"`{given.out}` is there and not empty. Choose another folder for `--out`."
        )
    if given.n_contexts < 1:
        raise ConfigError(f"`n_contexts` must be at least 1, got {given.n_contexts}.")
    # Imported here for start-up time, as the help needs none of it.
    import torch

    from monosem.constructions.comparison import compare, size_of
    from monosem.constructions.conversion import ConversionConfig, convert
    from monosem.models.language_model import LanguageModel

    dtype: torch.dtype = getattr(torch, given.dtype)
    original = LanguageModel.load(given.model)
    tokens = _tokens(given, original)
    origin = {"model": given.model, "hash": original.hash}
    original.model.to(dtype)  # pyright: ignore[reportArgumentType] - torch's stub of `to` on a class of transformers
    config = ConversionConfig(
        n_heads=given.n_heads, gain=given.gain, n_terms=given.n_terms, mode=given.mode
    )
    converted = convert(original.model, config)
    made = {**origin, "settings": dataclasses.asdict(config), "dtype": given.dtype}
    _write(given.out, converted.model, original.tokenizer, made)
    compared = compare(original.model, converted.model, tokens)
    size = size_of(original.model, converted)
    block = converted.blocks[0]
    if given.json:
        print(json.dumps(_record(given, size, compared, dataclasses.asdict(block)), indent=2))
    else:
        print(_shown(given, size, compared))
    return 0


def _write(out: Path, model: Any, tokenizer: Any, made: dict[str, Any]) -> None:
    """Write model, tokenizer and `provenance.json` beside `out`, then give the folder its name."""
    # Imported here for start-up time.
    from importlib.metadata import version

    from monosem.models.loading import no_bar

    partial = out.with_name(f"{out.name}.partial")
    if partial.exists():  # what an interrupted run left
        shutil.rmtree(partial)
    with no_bar():
        model.save_pretrained(partial)
    if tokenizer is not None:
        tokenizer.save_pretrained(partial)
    versions = {name: version(name) for name in ("monosem", "torch", "transformers")}
    record = json.dumps({**made, "versions": versions}, indent=2)
    (partial / "provenance.json").write_text(record, encoding="utf-8")
    if out.exists():
        out.rmdir()  # it is empty
    partial.rename(out)


def _tokens(given: Arguments, model: "LanguageModel") -> "Tensor":
    # Imported here for start-up time.
    import torch

    if given.text is not None:
        return rows_of_text(model, given.text, given.n_contexts)
    length, generator = min(model.context, LONGEST), torch.Generator().manual_seed(0)
    return torch.randint(0, model.vocab_size, (given.n_contexts, length), generator=generator)


def _record(
    given: Arguments, size: "Size", compared: "Comparison", block: dict[str, Any]
) -> dict[str, Any]:
    return {
        "model": given.model,
        "out": str(given.out),
        "dtype": given.dtype,
        "size": dataclasses.asdict(size),
        "block": block,
        "compared": {**dataclasses.asdict(compared), "loss_difference": compared.loss_difference},
    }


def _shown(given: Arguments, size: "Size", compared: "Comparison") -> str:
    before, after = size.parameters_before, size.parameters_after
    rows = [
        ["attention heads before", f"{size.heads_before:,}"],
        ["heads added", f"{size.heads_added:,}"],
        ["parameters before", f"{before:,}"],
        ["parameters after", f"{after:,}"],
        ["residual columns added", f"{size.columns_added:,}"],
        ["rows added", f"{size.rows_added}"],
        ["tokens compared", f"{compared.n_tokens:,}"],
        ["largest logit difference", f"{compared.largest_difference:.2e}"],
        ["largest logit", f"{compared.largest_logit:.3g}"],
        ["KL, nats", f"{compared.kl:.2e}"],
        ["argmax agreement", f"{compared.argmax_agreement:.4%}"],
        ["loss before, nats", f"{compared.loss_before:.6f}"],
        ["loss difference, nats", f"{compared.loss_difference:+.2e}"],
    ]
    return table.text([f"{given.model} → {given.out} ({given.dtype})", ""], rows)
