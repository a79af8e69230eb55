"""What the demo says of its dictionaries in a terminal: features with examples, the ending."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from monosem.explorer.evidence import Evidence, choose, draw, plain_remark
from monosem.features.database import Example, Feature, FeatureDatabase
from monosem.rendering.template import number, share
from monosem.rendering.visible import visible

N_CHOSEN, N_RANDOM = 10, 20
BEFORE, AFTER = 9, 6
"""Tokens shown before and after the one that fired."""
MIDDLE = (4, 5, 6)
"""Intervals of activation from which the second example comes."""
STRONG = 0.5
"""Share of the feature's maximum from which a token is drawn in reverse."""


def features(console: Console, database: FeatureDatabase, seed: int) -> None:
    """Print the features chosen for their evidence and those drawn at random, with examples."""
    name = database.dictionary_name
    chosen, drawn = choose(database, N_CHOSEN, seed), draw(database, N_RANDOM, seed)
    console.print(Text(f"\n{len(chosen)} features of {name}, chosen for their evidence", "bold"))
    for feature, found in chosen:
        _feature(console, database, feature, found)
    console.print(Text(f"\n{len(drawn)} drawn at random by seed {seed}, failures included", "bold"))
    for feature, found in drawn:
        _feature(console, database, feature, found)


def ending(console: Console, out: Path, report: Path, seconds: dict[str, float]) -> None:
    """Print how long each stage took, where the report is, and how to go on."""
    spent = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
    console.print(f"\n{sum(seconds.values()):.0f} seconds in all: {spent}.")
    console.print(f"Measures are in `{out / 'metrics.json'}`. Look at the report:")
    console.print(Text(f"  {report.resolve().as_uri()}", "bold"))
    console.print("Go on with every feature in a browser, or with text and a model of your own:")
    console.print(
        Text(f"  monosem explore {out / 'features/topk'} {out / 'features/neurons'}", "bold")
    )
    console.print(Text("  monosem tokens FOLDER --out runs/tokens", "bold"))


def _feature(
    console: Console, database: FeatureDatabase, feature: Feature, found: Evidence
) -> None:
    promoted = " ".join(visible(piece, edges=True) for _, piece, _ in feature.top_logits[:6])
    says = f"  fires on {share(feature.density)} of tokens, promotes {promoted}"
    fired = feature.n_fired > 0
    console.print(Text.assemble((f"{feature.index:>6}", "bold cyan"), says if fired else ""))
    console.print(Text(f"        {plain_remark(feature, found)}", "dim"))
    between = [e for e in database.examples(feature.index, "interval") if e.interval in MIDDLE]
    for example in [*database.examples(feature.index, "top")[:1], *between[:1]]:
        console.print(_example(database, feature, example, plain=not console.is_terminal))


def _example(database: FeatureDatabase, feature: Feature, example: Example, *, plain: bool) -> Text:
    """Return the text around one firing: in colour on a terminal, between «marks» elsewhere."""
    window = database.window(example, before=BEFORE, after=AFTER)
    line = Text(f"        {number(example.activation):>5}  ")
    for position, (piece, activation) in enumerate(
        zip(window.pieces, window.activations, strict=True)
    ):
        text, focus = visible(piece), position == window.focus
        if activation <= 0:
            line.append(text)
        elif plain:
            line.append(f"«{text}»" if focus else f"‹{text}›")
        else:
            strong = activation >= STRONG * feature.max_activation
            line.append(text, "black on dark_orange" if strong else "black on light_goldenrod1")
    return line
