"""The study as one call: stages that are kept as they are done, one report."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

from monosem.core.config import Json, content_hash
from monosem.core.errors import ConfigError
from monosem.dictionaries import coded, fitted
from monosem.metrics import baselines
from monosem.metrics.baselines import FEWEST_A_DIMENSION
from monosem.models.language_model import LanguageModel
from monosem.studies import report, running
from monosem.studies.report import Figure, Stage
from monosem.studies.sparse_autoencoders import cases as case_studies
from monosem.studies.sparse_autoencoders import matched, opponents
from monosem.studies.sparse_autoencoders import overfitting as overfits
from monosem.studies.sparse_autoencoders import setting as setting_of
from monosem.studies.sparse_autoencoders.cases import cases
from monosem.studies.sparse_autoencoders.control import control
from monosem.studies.sparse_autoencoders.curve import curve
from monosem.studies.sparse_autoencoders.overfitting import overfitting
from monosem.studies.sparse_autoencoders.setting import SCALES, Setting
from monosem.studies.sparse_autoencoders.sizes import sizes
from monosem.text.tokens import TokenStore

TITLE = "Sparse autoencoders find highly interpretable features"
LEAD = (
    "Cunningham et al. 2023, recomputed: dictionaries of a residual stream and of MLP neurons beside the "
    "bases, components and codes that stand against them, the same features in larger dictionaries, what "
    "latents are active on, and the same of a model that has learnt nothing."
)
FIGURES = (
    "curve-residual",
    "curve-mlp",
    "sizes",
    "cases",
    "overfitting",
    "control",
    "missing",
)
VERSION = 5
"""Of what figures mean; raised where code, and no constant of `CONSTANTS`, changes a number."""
CONSTANTS: dict[ModuleType, tuple[str, ...]] = {
    baselines: (
        "CLASSICAL_VISITS",
        "CLASSICAL_ROUNDS",
        "MOST_FACTORS",
        "FACTOR_ROWS",
        "PENALTY_ROWS",
        "PENALTY_TRIES",
        "NEAR",
        "FIRST_PENALTY",
        "LOWEST_PENALTY",
        "PENALTY_STEP",
        "FEWEST_A_DIMENSION",
    ),
    fitted: ("TOLERANCE", "MOST_ROUNDS"),
    coded: ("RELATIVE", "RIDGE", "GREEDY_STEPS", "MOST_STEPS"),
    matched: ("N_RESAMPLED", "MATCHED"),
    opponents: ("LINE_ROWS",),
    overfits: ("SEEN",),
    setting_of: ("N_SHUFFLES", "MIDDLE_L0", "BATCH"),
    case_studies: ("LEAST", "N_TOKENS"),
}
"""Constants that figures hang on, by the module that has them: another value makes figures anew."""
LACKS = {
    "scores of explanations, beside PCA, ICA, random directions and neurons": (
        "dictionaries best in early layers, near ICA at layer 4",
        "explanations come later",
    ),
    "indirect objects: patches needed for a KL, dictionaries against PCA": (
        "fewer and smaller patches than PCA (Pythia-410M, layer 11)",
        "localisation comes later",
    ),
    "causal trees of features across layers": (
        "closing brackets (Pythia-410M, layer 5)",
        "localisation comes later",
    ),
    "pronouns removed by ablating one feature": (
        "less disruption than earlier methods (first version)",
        "comparisons of edits come later",
    ),
}
"""What the paper has and this study has not: what it found, and why it is not here."""


def sparse_autoencoders(
    out: Path,
    *,
    model: LanguageModel,
    store: TokenStore | None = None,
    scale: str = "small",
    residual: str = "",
    mlp: str = "",
    figures: Sequence[str] = (),
    seed: int = 0,
    fresh: bool = False,
) -> list[Figure]:
    """Write the figures and the report into `out`; without `store` the model reads the corpus `python`.

    The sites are those of the middle layer unless they are given. What is there already, of the same scale,
    model and text, is used again: dictionaries as well as figures.
    """
    check(scale, figures, out)
    middle = model.n_layers // 2
    sites = (
        str(model.check_site(residual or f"blocks.{middle}.hook_resid_post")),
        str(model.check_site(mlp or f"blocks.{middle}.mlp.hook_post")),
    )
    chosen = SCALES[scale]
    _check_width(model.width(sites[0]), sites[0], scale, figures or FIGURES)
    store = store or running.own_text(model, out, max_tokens=chosen.max_tokens, fresh=fresh)
    setting = Setting(chosen, model, store, *sites, out, seed, fresh)
    makers: dict[str, Callable[[], Figure]] = {
        "curve-residual": partial(curve, setting, mlp=False),
        "curve-mlp": partial(curve, setting, mlp=True),
        "sizes": partial(sizes, setting),
        "cases": partial(cases, setting),
        "overfitting": partial(overfitting, setting),
        "control": partial(control, setting),
        "missing": partial(report.missing, LACKS),
    }
    key = content_hash([VERSION, _constants(), setting.key])
    stages = {name: Stage(make=make, key=key) for name, make in makers.items()}
    return report.make(stages, figures, out, title=TITLE, lead=LEAD, fresh=fresh)


def check(scale: str, figures: Sequence[str], out: Path) -> None:
    """Raise for names that do not exist, and for a file where the folder is to be."""
    running.check(out, scale=scale, scales=SCALES, figures=figures, known=FIGURES)


def _constants() -> list[Json]:
    return [
        {f"{module.__name__}.{name}": getattr(module, name)}
        for module, names in CONSTANTS.items()
        for name in names
    ]


def _check_width(width: int, site: str, scale: str, figures: Sequence[str]) -> None:
    """Raise where figures that are nothing without baselines would find too few vectors to fit them to.

    The others leave such baselines out and say so.
    """
    some = [name for name in ("overfitting", "control") if name in figures]
    n_fit = SCALES[scale].n_fit
    if some and n_fit < FEWEST_A_DIMENSION * width:
        raise ConfigError(
            f"Scale `{scale}` fits baselines to {n_fit:,} vectors, and `{site}`, {width:,} wide, needs "
            f"{FEWEST_A_DIMENSION * width:,} for {' and '.join(f'`{name}`' for name in some)}. Choose a "
            "larger scale, a narrower site, or `figures` without these."
        )
