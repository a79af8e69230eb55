"""The control: the same dictionary of a model whose weights were shuffled.

A dictionary explains activations of a model that has learnt nothing, too. What it finds there must be
told apart from what it finds in the model: by what it explains, and by latents of one token.
"""

from monosem.core.config import Json
from monosem.metrics.by_token import activation_by_token, sums
from monosem.metrics.evaluate import evaluate_many
from monosem.metrics.firing import count_firing
from monosem.metrics.sample import Sample, draw
from monosem.metrics.stream import Place
from monosem.studies.report import Figure, Item
from monosem.studies.towards_monosemanticity.automata import LEAST
from monosem.studies.towards_monosemanticity.setting import Setting

ONE_TOKEN = 0.95
"""Share of a latent's activation on one token from which it is a latent of that token."""


def control(setting: Setting) -> Figure:
    """Return measures of the main dictionary beside those of its twin on the shuffled model."""
    shuffled = Place(setting.shuffled, setting.store, setting.site)
    samples = {
        "model": setting.sample,
        "shuffled model": draw(
            setting.of_shuffled, shuffled, n_tokens=setting.scale.n_eval, seed=setting.seed
        ),
    }
    main = setting.scale.main
    rows = {"model": setting.evaluated([main])[main], **_of_shuffled(setting)}
    items: list[Item] = []
    how = "models/randomised.py, metrics/evaluate.py, control.py; monosem study towards-monosemanticity"
    for name in samples:
        row = rows[name]
        items += [
            Item(item=f"{name}: l0", here=float(row["l0"]), how=how),
            Item(item=f"{name}: FVU", here=float(row["fvu"]), how=how),
            Item(item=f"{name}: dead", here=int(row["n_dead"]), unit="latents", how=how),
            Item(
                item=f"{name}: latents of one token",
                here=of_one_token(samples[name]),
                unit="share",
                paper="many in the randomised transformer" if name != "model" else None,
                paper_certainty="read in the paper" if name != "model" else "—",
                how=how,
            ),
        ]
    return Figure(
        name="control",
        title="A model that has learnt nothing",
        text=(
            "The entries of each weight matrix are shuffled, and the same dictionary is trained on what the "
            "model then does. What a dictionary finds there it would find anywhere: a measure that is as "
            "good there says nothing of what was learnt."
        ),
        items=tuple(items),
        notes={"of one token": f"{ONE_TOKEN:.0%} of the activation, at least {LEAST} firings"},
    )


def _of_shuffled(setting: Setting) -> dict[str, Json]:
    # Counted in the same arithmetic as those of the model.
    firing = count_firing(
        {"shuffled model": setting.of_shuffled},
        Place(setting.shuffled, setting.store, setting.site),
        n_tokens=setting.scale.n_density,
        seed=setting.seed,
        batch=setting.measuring.batch_tokens,
        policy="fp32",
    )
    return evaluate_many(
        {"shuffled model": setting.of_shuffled},
        setting.shuffled,
        setting.store,
        setting.measuring,
        site=setting.site,
        neurons=False,
        firing=firing,
    )


def of_one_token(sample: Sample) -> float:
    """Return the share of latents, of those that fire often enough, that fire on one token alone."""
    tokens = sample.text.tokens[sample.text.ordinary]
    mass = activation_by_token(sample, tokens, int(tokens.max()) + 1)
    known = sample.n_fired() >= LEAST
    if not known.any():
        return float("nan")
    largest = mass[known].max(1).toarray().ravel() / sums(mass[known], 1)
    return float((largest >= ONE_TOKEN).mean())
