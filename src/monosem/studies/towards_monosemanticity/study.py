"""The study as one call: stages that are kept as they are done, one report."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from monosem.core.config import content_hash
from monosem.core.errors import ConfigError
from monosem.models.language_model import LanguageModel
from monosem.studies import report, running
from monosem.studies.report import Figure, Stage
from monosem.studies.running import own_text
from monosem.studies.towards_monosemanticity.automata import automata
from monosem.studies.towards_monosemanticity.control import control
from monosem.studies.towards_monosemanticity.dictionaries import dictionaries
from monosem.studies.towards_monosemanticity.effects import effects
from monosem.studies.towards_monosemanticity.explanations import explanations
from monosem.studies.towards_monosemanticity.joint_map import joint_map
from monosem.studies.towards_monosemanticity.neurons import neurons
from monosem.studies.towards_monosemanticity.proxies import proxies
from monosem.studies.towards_monosemanticity.setting import (
    SCALES,
    VERSION,
    Setting,
    WritePage,
    sizes,
)
from monosem.studies.towards_monosemanticity.splitting import splitting
from monosem.studies.towards_monosemanticity.universality import universality
from monosem.studies.towards_monosemanticity.widths import densities, widths
from monosem.text.tokens import TokenStore

TITLE = "Towards monosemanticity"
LEAD = (
    "Bricken et al. 2023, recomputed: the MLP neurons of a small transformer taken apart by dictionaries of "
    "several widths, what their latents fire on, and what they have in common with one another."
)
MAKERS: dict[str, Callable[[Setting], Figure]] = {
    "widths": widths,
    "dictionaries": dictionaries,
    "densities": densities,
    "proxies": proxies,
    "universality": universality,
    "splitting": splitting,
    "joint-map": joint_map,
    "neurons": neurons,
    "explanations": explanations,
    "automata": automata,
    "effects": effects,
    "control": control,
}
FIGURES = (*MAKERS, "missing")
LACKS = {
    "scores of explanations in words, of activations and of logits": (
        "median 0.74 for logits of features",
        "explanations in words come later; what tokens alone explain stands above",
    ),
    "the human rubric": ("medians 12 of 14 for features, 0 for neurons", "it needs people"),
}
OF_WIDTHS = ("widths", "dictionaries", "densities", "splitting", "joint-map", "missing")
"""Those that hang on all widths: the others are kept where widths are added."""


def towards_monosemanticity(
    out: Path,
    *,
    model: LanguageModel,
    second: LanguageModel | None = None,
    store: TokenStore | None = None,
    scale: str = "small",
    ratios: Sequence[int] = (),
    site: str = "",
    figures: Sequence[str] = (),
    seed: int = 0,
    fresh: bool = False,
    write_page: WritePage | None = None,
) -> list[Figure]:
    """Write the figures and the report into `out`; without `store` the model reads `python` and `generated`.

    `second` is a model of the same shape and tokenizer, from another seed. What is there already, of the same
    scale, models and text, is used again: dictionaries as well as figures. `ratios` are widths in place of
    the scale's. `write_page` writes the page of a dictionary from its feature database; without it the
    databases are made, and no pages of them.
    """
    check(scale, figures, out, ratios)
    chosen = str(model.check_site(site or "blocks.0.mlp.hook_post"))
    if second is not None:
        _check_second(model, second, chosen)
        _check_context(second, running.context_of(model) if store is None else store.context)
    wanted = sizes(scale, ratios)
    if store is None:
        corpora, weights = ("python", "generated"), (0.8, 0.2)
        n = wanted.max_tokens
        store = own_text(model, out, max_tokens=n, corpora=corpora, weights=weights, fresh=fresh)
    setting = Setting(wanted, model, store, chosen, out, seed, second, write_page, fresh)
    stages = {
        name: Stage(make=partial(make, setting), key=figure_key(name, setting))
        for name, make in MAKERS.items()
    }
    stages["missing"] = Stage(
        make=partial(report.missing, lacks(scale, setting)), key=figure_key("missing", setting)
    )
    return report.make(stages, figures, out, title=TITLE, lead=LEAD, fresh=fresh)


def figure_key(name: str, setting: Setting) -> str:
    """Return the hash of what a figure hangs on: second model and widths only where it looks at them."""
    own = {"universality": setting.key_of_both} | dict.fromkeys(OF_WIDTHS, setting.key_of_widths)
    parts: list[object] = [VERSION, name, own.get(name, setting.key)]
    if name == "dictionaries":  # an index without pages is another
        parts.append(setting.write_page is not None)
    return content_hash(parts)


def lacks(scale: str, setting: Setting) -> dict[str, tuple[str, str]]:
    """Return what the paper shows and is not here, widths among it: what the paper has, and why."""
    widest = [r for r in SCALES["paper"].ratios if r not in setting.scale.ratios]
    if not widest:
        return LACKS
    names, ratios = ", ".join(f"{r} ×" for r in widest), {*setting.scale.ratios, *widest}
    every = " ".join(str(r) for r in sorted(ratios))
    asked = setting.scale.ratios != SCALES[scale].ratios
    who = "`--ratios` leaves" if asked else f"scale `{scale}` leaves"
    why = f"{who} them out; `--ratios {every}` trains them too"
    return {f"dictionaries of {names}": ("1 × to 256 ×, 131,072 latents", why), **LACKS}


def check(scale: str, figures: Sequence[str], out: Path, ratios: Sequence[int] = ()) -> None:
    """Raise for names and widths that do not exist, and for a file where the folder is to be."""
    running.check(out, scale=scale, scales=SCALES, figures=figures, known=FIGURES)
    sizes(scale, ratios)


def _check_second(model: LanguageModel, second: LanguageModel, site: str) -> None:
    """Raise unless `second` has the site, and reads the same ids for the same text."""
    second.check_site(site)
    if second.hash == model.hash:
        raise ConfigError(
            f"`{second.name}` is `{model.name}` itself: all of it is found again. Name a model from another "
            "seed, or none: then another seed's dictionary of the same model is compared."
        )
    ours, theirs = model.tokenizer, second.tokenizer
    if ours is None or theirs is None or ours.get_vocab() != theirs.get_vocab():
        raise ConfigError(
            f"`{second.name}` has another vocabulary than `{model.name}`: they do not read the same ids. "
            "Name a second model with the same tokenizer."
        )


def _check_context(second: LanguageModel, context: int) -> None:
    """Raise unless `second` reads contexts as long as those of the text: before anything is trained."""
    if second.context < context:
        raise ConfigError(
            f"`{second.name}` reads {second.context} tokens at most; contexts of the text have {context}. "
            "Name a second model that reads as many, or text of shorter contexts: make it with "
            f"`monosem tokens --context {second.context}`, and name its folder, `--tokens FOLDER`."
        )
