"""The dictionaries of the sweep: what each explains, its features in a database, a page of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from monosem.core.config import Json, content_hash, to_json
from monosem.features.build import FeaturesConfig, build_features
from monosem.features.database import FeatureDatabase
from monosem.metrics.record import weights_hash
from monosem.rendering import table
from monosem.rendering.page import page
from monosem.rendering.template import number
from monosem.studies.report import Figure, Item
from monosem.studies.towards_monosemanticity.setting import Setting

INDEX = "dictionaries.html"
LATENTS_AT_ONCE, MOST_TOKENS, FEWEST_TOKENS = 2**28, 8192, 256
"""Values of latents, before the zeros among them are left out, that are in memory at once: a gigabyte; and
tokens between which a batch then is."""
COLUMNS = {
    "l0": ("l0", "latents that fire on a token, on average"),
    "fvu": (
        "FVU",
        "share of the variance that is left unexplained, on held-out text; 0 is perfect",
    ),
    "loss_recovered_zero": ("recovered", "share of the harm of zeroing the site that is undone"),
    "n_dead": ("dead", "latents that never fired on the tokens that were counted"),
}


def dictionaries(setting: Setting) -> Figure:
    """Return the index over all dictionaries, and write it as a page; each has its features described."""
    places = {ratio: _described(setting, ratio) for ratio in setting.widths}
    shown = _index(setting, places)
    n_latents = [dictionary.n_latents for dictionary in setting.widths.values()]
    ratios = " ".join(str(ratio) for ratio in setting.widths)
    heading = Markup(
        '<h1>Dictionaries of one sweep</h1><p class="lead">Of <code>{}</code> at <code>{}</code>, trained on '
        "one stream. Each name leads to its features.</p>"
    ).format(setting.model.name, setting.site)
    whole = page("Dictionaries of one sweep", heading + shown)
    (setting.out / INDEX).write_text(str(whole), encoding="utf-8")
    return Figure(
        name="dictionaries",
        title="The dictionaries",
        text=(
            "Each dictionary has a feature database: examples from its strongest to its weakest "
            "activations, the tokens it promotes, its nearest neighbours. A page shows features chosen for "
            "their evidence, and features drawn at random, failures among them; `monosem explore` with the "
            "database's folder shows all. The same table is a page by itself, "
            f"{INDEX}."
        ),
        drawings=(str(shown),),
        captions=("All dictionaries of the sweep",),
        items=(
            Item(
                item="dictionaries of one sweep",
                here=f"{len(places)}, from {min(n_latents):,} to {max(n_latents):,} latents",
                paper="90, from 512 to 131,072 latents, of several sweeps",
                paper_certainty="read in the paper",
                how=f"monosem study towards-monosemanticity --ratios {ratios}",
            ),
            *(
                Item(
                    item=f"{ratio} ×: latents that fire often enough to be described",
                    here=int(place.database.metrics["n_alive"]),
                    unit="latents",
                    how="monosem.features.build.build_features; monosem explore "
                    f"{setting.out.name}/{place.database.path.name}",
                )
                for ratio, place in places.items()
            ),
        ),
        notes={"tokens read for the features of each": f"{setting.scale.n_described:,}"},
    )


@dataclass(frozen=True)
class Described:
    """The features of one dictionary, and the page that shows some."""

    database: FeatureDatabase
    page: Path | None


def _described(setting: Setting, ratio: int) -> Described:
    """Return the feature database of one dictionary and its page, both made unless they are there."""
    dictionary = setting.widths[ratio]
    config = FeaturesConfig(
        n_tokens=setting.scale.n_described,
        n_top=8,
        n_per_interval=2,
        n_random=5,
        batch_tokens=max(FEWEST_TOKENS, min(MOST_TOKENS, LATENTS_AT_ONCE // dictionary.n_latents)),
        seed=setting.seed,
    )
    # Named by the weights: a dictionary that was trained anew has features of its own.
    whose = [weights_hash(dictionary), setting.model.hash, setting.store.hash, setting.site]
    key = content_hash([*whose, to_json(config)])[:8]
    database = build_features(
        dictionary,
        setting.model,
        setting.store,
        setting.out / f"{ratio}x-features-{key}",
        config,
        site=setting.site,
        fresh=setting.fresh,
    )
    if setting.write_page is None:
        return Described(database, None)
    place = setting.out / f"{ratio}x-{key}.html"
    title = f"{ratio} × as many latents as neurons, of {setting.model.name}"
    measures = setting.evaluated(setting.widths)[ratio]
    setting.write_page(database, measures, place, title)
    return Described(database, place)


def _index(setting: Setting, places: Mapping[int, Described]) -> Markup:
    headers = ["dictionary", "latents", "trained on", *(name for name, _ in COLUMNS.values())]
    rows_of = setting.evaluated(setting.widths)
    rows = [
        [
            _link(f"{ratio} ×", place.page),
            f"{setting.widths[ratio].n_latents:,}",
            f"{setting.n_tokens(ratio):,}",
            *_measures(rows_of[ratio]),
        ]
        for ratio, place in places.items()
    ]
    notes = {"trained on": "activations, repeats counted", **dict(COLUMNS.values())}
    return table.html(headers, rows, notes=notes)


def _measures(row: Json) -> list[str]:
    return [
        "void" if row[key] is None else f"{row[key]:,}" if key == "n_dead" else number(row[key])
        for key in COLUMNS
    ]


def _link(name: str, place: Path | None) -> Markup:
    if place is None:
        return Markup("{}").format(name)
    return Markup('<a href="{}">{}</a>').format(place.name, name)
