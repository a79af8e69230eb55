"""`monosem study`: a paper's claims, recomputed."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from monosem.core.config import Json
from monosem.core.errors import ConfigError, unknown_name
from monosem.rendering import table

if TYPE_CHECKING:
    from monosem.features.database import FeatureDatabase
    from monosem.studies.report import Figure

HELP = "recompute the claims of a paper"

ATTENTION_ONLY, FEATURES = "attention-only", "sparse-autoencoders-find-features"
TOWARDS, SOLU = "towards-monosemanticity", "solu"
STUDIES = (ATTENTION_ONLY, TOWARDS, FEATURES, SOLU)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Recompute the claims of a paper: what is measured beside what it says, or what is proved."""

    study: Annotated[str, tyro.conf.Positional]
    """Which: attention-only, towards-monosemanticity, sparse-autoencoders-find-features, solu (which trains
    models of its own on `--tokens`)."""
    scale: str = "small"
    """tiny (a minute), small (an hour at most) or paper (its sizes); of attention-only: small, or full."""
    out: Path | None = None
    """Folder of the report; what is there already is not made again. Left out: runs/ and the name."""
    figures: tuple[str, ...] = ()
    """Figures to make; left out, all."""
    model: str = "1L-a"
    """Language model: an embedded one, a folder, or a name on the hub."""
    tokens: Path | None = None
    """Token store that it reads; left out, the standard library's text."""
    residual: str = ""
    """Residual site; left out, that of the middle layer."""
    mlp: str = ""
    """Site of MLP neurons; left out, that of the middle layer (of the first, for towards-monosemanticity)."""
    second: str = ""
    """A second model with the same tokenizer, for towards-monosemanticity: features of both are compared."""
    ratios: tuple[int, ...] = ()
    """Widths of the dictionaries in neurons, for towards-monosemanticity (1 2 8 32 64 256, say); left out,
    the scale's."""
    seed: int = 0
    """Seed of dictionaries, text order and samples."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    fresh: bool = False
    """Make every figure anew, features and measures too; dictionaries that are there are used again, unless
    they are refused (stopped on another machine, damaged): those are trained anew."""
    json: bool = False
    """Print the claims, or the items, as JSON."""


def main(arguments: list[str]) -> int:
    """Run the study and print what it found; 1 if a claim with a proof does not hold."""
    given = tyro.cli(Arguments, args=arguments, prog="monosem study", description=HELP)
    if given.study not in STUDIES:
        raise unknown_name("study", given.study, STUDIES)
    if given.study == ATTENTION_ONLY:
        return _claims(given)
    return _arms(given) if given.study == SOLU else _figures(given)


def _claims(given: Arguments) -> int:
    """Print the claims of `attention-only`, and return 0 if all hold."""
    sites = (given.residual, given.mlp)
    others = (given.out, given.tokens, given.figures, given.second, given.ratios, *sites)
    if any(others) or given.seed or given.fresh or given.device != "auto":
        raise ConfigError(
            "`attention-only` prints its claims, and has `--scale`, `--model` and `--json` alone. Leave the "
            "other options out."
        )
    # Imported here for start-up time.
    from monosem.studies.attention_only import attention_only

    claims = attention_only(given.scale, (given.model,))
    if given.json:
        print(json.dumps([{**dataclasses.asdict(c), "holds": c.holds} for c in claims], indent=2))
    else:
        rows = [
            [c.claim, c.dtype, f"{c.measured:.3g}", f"{c.bound:.3g}", "yes" if c.holds else "NO"]
            for c in claims
        ]
        print(table.text(["claim", "dtype", "measured", "bound", "holds"], rows))
    return 0 if all(c.holds for c in claims) else 1


def _arms(given: Arguments) -> int:
    """Train and compare the arms of `solu`, and print what was found."""
    if given.tokens is None:
        raise ConfigError("`solu` trains models: name a token store for them, `--tokens STORE`.")
    named = (given.figures, given.second, given.residual, given.mlp, given.ratios)
    if any(named) or given.fresh:
        raise ConfigError(
            "`solu` has `--tokens`, `--scale`, `--out` and `--device`; choose another `--out` to begin anew. "
            "Leave the other options out."
        )
    # Imported here for start-up time.
    from monosem.runtime.device import resolve
    from monosem.studies.solu.study import solu
    from monosem.text.store import TokenStore

    out = given.out or Path("runs") / given.study
    device = resolve(given.device)
    found = solu(out, TokenStore.open(given.tokens), scale=given.scale, device=device)
    return _show(found, out, given.json)


def _figures(given: Arguments) -> int:
    """Make the figures of a paper, print their items and where the report lies."""
    if given.second and given.study != TOWARDS:
        raise ConfigError(
            f"`--second` is for `{TOWARDS}`; `{given.study}` has one model. Leave it out."
        )
    if given.ratios and given.study != TOWARDS:
        raise ConfigError(
            f"`--ratios` are widths of `{TOWARDS}`; those of `{given.study}` go with its scale. Leave it out."
        )
    if given.residual and given.study == TOWARDS:
        raise ConfigError(f"`{TOWARDS}` looks at MLP neurons: name their site with `--mlp`.")
    # Imported here for start-up time.
    from monosem.models.language_model import LanguageModel
    from monosem.text.store import TokenStore

    out = given.out or Path("runs") / given.study
    if given.study == FEATURES:
        from monosem.studies.sparse_autoencoders.study import check

        check(given.scale, given.figures, out)
    else:
        from monosem.studies.towards_monosemanticity.study import check

        check(given.scale, given.figures, out, given.ratios)
    shared: dict[str, Any] = {
        "model": LanguageModel.load(given.model, device=given.device),
        "store": None if given.tokens is None else TokenStore.open(given.tokens),
        "scale": given.scale,
        "figures": given.figures,
        "seed": given.seed,
        "fresh": given.fresh,
    }
    if given.study == FEATURES:
        from monosem.studies.sparse_autoencoders.study import sparse_autoencoders

        found = sparse_autoencoders(out, residual=given.residual, mlp=given.mlp, **shared)
    else:
        from monosem.studies.towards_monosemanticity.study import towards_monosemanticity

        second = LanguageModel.load(given.second, device=given.device) if given.second else None
        shared |= {"ratios": given.ratios, "write_page": _write_page}
        found = towards_monosemanticity(out, site=given.mlp, second=second, **shared)
    return _show(found, out, given.json)


def _write_page(database: "FeatureDatabase", measures: Json, out: Path, title: str) -> None:
    """Write the page of one dictionary: studies know nothing of the explorer."""
    from monosem.explorer.report import write_report  # for start-up time

    name = database.dictionary_name
    write_report({name: database}, {name: measures}, out, title=title, chosen=6, random=10)


def _show(found: "list[Figure]", out: Path, as_json: bool) -> int:
    """Print the items of figures, and where their report lies."""
    from monosem.studies import report  # for start-up time

    if as_json:
        print(json.dumps([report.item_json(i) for f in found for i in f.items], indent=2))
    else:
        print(report.text(found))
        print(f"\n{out / report.PAGE}")
    return 0
