"""The study as one call: stages that are kept as they are done, one report."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from monosem.core.config import content_hash
from monosem.core.errors import ConfigError, unknown_name
from monosem.models.language_model import LanguageModel
from monosem.studies import report
from monosem.studies.report import Figure, Item, Stage
from monosem.studies.towards_monosemanticity.automata import automata
from monosem.studies.towards_monosemanticity.control import control
from monosem.studies.towards_monosemanticity.effects import effects
from monosem.studies.towards_monosemanticity.joint_map import joint_map
from monosem.studies.towards_monosemanticity.neurons import neurons
from monosem.studies.towards_monosemanticity.proxies import proxies
from monosem.studies.towards_monosemanticity.setting import SCALES, Setting
from monosem.studies.towards_monosemanticity.universality import splitting, universality
from monosem.studies.towards_monosemanticity.widths import densities, widths
from monosem.text.tokens import TokensConfig, TokenStore, build_token_store

TITLE = "Towards monosemanticity"
LEAD = (
    "Bricken et al. 2023, recomputed: the MLP neurons of a small transformer taken apart by dictionaries of "
    "several widths, what their latents fire on, and what they have in common with one another."
)
MAKERS: dict[str, Callable[[Setting], Figure]] = {
    "widths": widths,
    "densities": densities,
    "proxies": proxies,
    "universality": universality,
    "splitting": splitting,
    "joint-map": joint_map,
    "neurons": neurons,
    "automata": automata,
    "effects": effects,
    "control": control,
}
FIGURES = (*MAKERS, "missing")
OF_BOTH = ("universality",)
"""Figures that hang on the second model: the others are kept when one is named later."""
VERSION = 1


def towards_monosemanticity(
    out: Path,
    *,
    model: LanguageModel,
    second: LanguageModel | None = None,
    store: TokenStore | None = None,
    scale: str = "small",
    site: str = "",
    figures: Sequence[str] = (),
    seed: int = 0,
    fresh: bool = False,
) -> list[Figure]:
    """Write the figures and the report into `out`; without `store` the model reads `python` and `generated`.

    `second` is a model of the same shape and tokenizer, from another seed. What is there already, of the same
    scale, models and text, is used again: dictionaries as well as figures.
    """
    check(scale, figures, out)
    chosen = str(model.check_site(site or "blocks.0.mlp.hook_post"))
    if second is not None:
        _check_second(model, second, chosen)
    store = store or _own_text(model, SCALES[scale].max_tokens, out, fresh)
    setting = Setting(SCALES[scale], model, store, chosen, out, seed, second)
    stages = {
        name: Stage(make=partial(make, setting), key=_key(name, setting))
        for name, make in MAKERS.items()
    }
    stages["missing"] = Stage(make=missing, key=_key("missing", setting))
    wanted = figures or FIGURES

    def page() -> None:
        report.write(report.kept(stages, out), out, title=TITLE, lead=LEAD)

    return report.run_stages({n: stages[n] for n in wanted}, out, fresh=fresh, done=page)


def _key(name: str, setting: Setting) -> str:
    return content_hash([VERSION, name, setting.key_of_both if name in OF_BOTH else setting.key])


def check(scale: str, figures: Sequence[str], out: Path) -> None:
    """Raise for names that do not exist, and for a file where the folder is to be."""
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    for name in figures:
        if name not in FIGURES:
            raise unknown_name("figure", name, FIGURES)
    if out.is_file():
        raise ConfigError(f"`{out}` is a file. Name a folder for the study.")


def _check_second(model: LanguageModel, second: LanguageModel, site: str) -> None:
    """Raise unless `second` has the site, and reads the same ids for the same text."""
    second.check_site(site)
    ours, theirs = model.tokenizer, second.tokenizer
    if ours is None or theirs is None or ours.get_vocab() != theirs.get_vocab():
        raise ConfigError(
            f"`{second.name}` has another vocabulary than `{model.name}`: they do not read the same ids. "
            "Name a second model with the same tokenizer."
        )


def _own_text(model: LanguageModel, max_tokens: int, out: Path, fresh: bool) -> TokenStore:
    if not isinstance(model.tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(
            f"`{model.name}` brings no fast tokenizer to read text with. Give a token store."
        )
    config = TokensConfig(
        corpora=("python", "generated"),
        weights=(0.8, 0.2),
        max_tokens=max_tokens,
        context=min(128, model.context or 128),
    )
    folder = out / f"tokens-{max_tokens or 'all'}"
    return build_token_store(config, folder, tokenizer=model.tokenizer, fresh=fresh)


def missing() -> Figure:
    """Return what the paper has and this study has not."""
    lacks = {
        "scores of explanations of activations and of logits": (
            "median 0.74 for logits of features",
            "explanations come later",
        ),
        "the human rubric": ("medians 12 of 14 for features, 0 for neurons", "it needs people"),
    }
    return Figure(
        name="missing",
        title="What is not here",
        text="What the paper shows and this study cannot recompute yet, and why.",
        items=tuple(
            Item(
                item=item,
                here=f"missing: {why}",
                paper=paper,
                paper_certainty="read in the paper",
                how="—",
            )
            for item, (paper, why) in lacks.items()
        ),
    )
