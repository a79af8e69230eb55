"""Writes the tables of docs/exchange.md, measured by writing and reading: `python docs/exchange.py`.

The text of the page is its own; what stands between `<!-- NAME -->` and `<!-- end -->` is written anew.
"""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from monosem.core.errors import ConfigError
from monosem.dictionaries.formats import releases, table
from monosem.dictionaries.formats.build import dictionary_of
from monosem.dictionaries.formats.format import Format
from monosem.dictionaries.formats.loading import specification
from monosem.dictionaries.formats.specification import Axes, Place, Specification
from monosem.dictionaries.wiring import Wiring

PAGE = Path(__file__).with_name("exchange.md")
D, F, K, ROWS, LAYERS = 6, 12, 3, 64, 2
TOLERANCE = 1e-5
TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold", "r_mag", "b_mag", "W_skip")
ONE = Place(model="gpt2", site="blocks.3.hook_resid_post", processing="none")
OVER = Place(
    model="gpt2", site="blocks.3.hook_resid_mid", target="blocks.3.hook_mlp_out", processing="none"
)
TWO = Place(
    model="gpt2", site="blocks.0.hook_resid_post, blocks.1.hook_resid_post", processing="none"
)
ACROSS = Place(
    model="gpt2",
    site="blocks.0.hook_resid_mid, blocks.1.hook_resid_mid",
    target="blocks.0.hook_mlp_out, blocks.1.hook_mlp_out",
    processing="none",
)
CENTRED = Place(model="gpt2", site="blocks.3.hook_resid_post", processing="centred")
WRITTEN = {
    "monosem": "every dictionary, with all that is recorded of it",
    "saelens": "one site, or one to another; processing of the model is recorded",
    "sparsify": "TopK and ReLU of one site, or one to another; sets",
    "circuit_tracer": "transcoders of sites of one width, sets of them, cross-layer transcoders",
    "dictionary_learning": "one site, or one to another without a skip; crosscoders of ReLU",
}
READ_ONLY = {
    "llamascopium": "dictionaries of one site, transcoders, crosscoders, CLTs; the names of early 2025 too",
    "llama_scope": "scale of the input, choice by decoder norm and JumpReLU threshold, all three honoured",
    "gemma_scope": "JumpReLU of Gemma 2 and 3, transcoders with and without skip, CLTs, crosscoders",
    "openai": "TopK (with its layer norm) and ReLU, a file for each layer",
    "plain": "bare tensors; what neither names, shapes nor `config.json` say is remarked or asked for",
}


def page() -> str:
    """Return the page as it should be."""
    rows, notes = conformance()
    writing = [format.name for format in table.FORMATS if format.write is not None]
    parts = {
        "RELEASES": grid(["release", "a name in it"], [list(r) for r in condensed()]),
        "CONFORMANCE": grid(["kind", *(f"`{name}`" for name in writing)], rows),
        "NOTES": "\n".join(f"{i}. {note}" for i, note in enumerate(notes, 1)),
        "TARGETS": grid(["`--to`", "writes", "of"], targets()),
        "READ_ONLY": grid(["format", "files", "what is read", "held to numpy in"], read_only()),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, part in parts.items():
        before, rest = text.split(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        text = f"{before}<!-- {name} -->\n{part}\n{end}{after}"
    return text


def kinds() -> Iterator[tuple[str, Specification]]:
    """Yield one small dictionary of each kind: random weights, rows of many norms, no bias zero."""
    reads, straight = Axes(subtract_b_dec=True), Axes(subtract_b_dec=False)
    over, skip = Wiring(kind="transcoder"), Wiring(kind="transcoder", skip=True)
    sites = (D,) * LAYERS
    yield "relu", made("relu", reads)
    yield "topk", made("topk", reads)
    yield (
        "topk, chosen by decoder norm",
        made("topk", Axes(subtract_b_dec=True, choose_by_norm=True)),
    )
    yield "batch_topk (one threshold)", thresholded("batch_topk")
    yield "matryoshka (one threshold)", thresholded("matryoshka")
    yield "jumprelu", made("jumprelu", reads)
    yield "jumprelu, thresholds reached", reached()
    yield "gated", made("gated", reads)
    yield (
        "relu, input scaled",
        made("relu", Axes(subtract_b_dec=True, normalisation="scale", scale=0.3, output_scale=0.3)),
    )
    yield "topk, layer-normed", made("topk", Axes(subtract_b_dec=True, normalisation="layer_norm"))
    yield (
        "relu, unit root mean square",
        made("relu", Axes(subtract_b_dec=True, normalisation="unit_rms")),
    )
    yield "relu, of a centred model", made("relu", reads, place=CENTRED)
    yield "transcoder, relu", made("relu", straight, place=OVER, wiring=over)
    yield "transcoder, topk", made("topk", straight, place=OVER, wiring=over)
    yield "transcoder, jumprelu", made("jumprelu", straight, place=OVER, wiring=over)
    yield "skip transcoder, relu", made("relu", straight, place=OVER, wiring=skip)
    yield "skip transcoder, topk", made("topk", straight, place=OVER, wiring=skip)
    crosscoder = Wiring(kind="crosscoder", widths_in=sites, widths_out=sites)
    yield "crosscoder, relu", made("relu", straight, place=TWO, wiring=crosscoder)
    yield "crosscoder, topk", made("topk", straight, place=TWO, wiring=crosscoder)
    clt = Wiring(kind="clt", widths_in=sites, widths_out=sites)
    yield "cross-layer transcoder, relu", made("relu", straight, place=ACROSS, wiring=clt)
    yield "cross-layer transcoder, jumprelu", made("jumprelu", straight, place=ACROSS, wiring=clt)
    yield "cross-layer transcoder, topk", made("topk", straight, place=ACROSS, wiring=clt)


def made(
    activation: Any,
    axes: Axes,
    *,
    place: Place = ONE,
    wiring: Wiring | None = None,
    trained_as: str = "",
) -> Specification:
    """Return a random dictionary, the same each time."""
    wiring = wiring or Wiring()
    draw = torch.Generator().manual_seed(0)
    d = D * max(1, len(wiring.widths_in))
    W_dec = torch.randn(F, d, generator=draw)
    if wiring.kind == "clt":  # no latent writes a layer before its own
        W_dec[F // LAYERS :, :D] = 0
    own: dict[str, Any] = {
        "topk": {"k": K},
        "jumprelu": {"threshold": torch.rand(F, generator=draw) + 0.1},
        "gated": {name: 0.3 * torch.randn(F, generator=draw) for name in ("r_mag", "b_mag")},
    }.get(activation, {})
    return Specification(
        activation=activation,
        axes=axes,
        W_enc=torch.randn(D if wiring.kind == "clt" else d, F, generator=draw),
        W_dec=W_dec,
        b_enc=torch.randn(F, generator=draw),
        b_dec=torch.randn(d, generator=draw),
        W_skip=torch.randn(d, d, generator=draw) if wiring.skip else None,
        wiring=wiring,
        place=place,
        trained_as=trained_as,
        **own,
    )


def reached() -> Specification:
    """Return a dictionary of whole numbers, whose pre-activations often equal their threshold."""
    s = made("jumprelu", Axes(subtract_b_dec=True, inclusive=True))
    unit = torch.eye(D).repeat(F // D, 1)
    return replace(
        s,
        W_enc=unit.T,
        W_dec=unit,
        b_enc=torch.zeros(F),
        b_dec=torch.zeros(D),
        threshold=torch.ones(F),
    )


def thresholded(kind: str) -> Specification:
    """Return a dictionary that chose by batch in training, and has one threshold since."""
    s = made("jumprelu", Axes(subtract_b_dec=True), trained_as=kind)
    fields = {
        name: getattr(s, name) for name in ("axes", "W_enc", "W_dec", "b_enc", "b_dec", "place")
    }
    return Specification(
        activation="jumprelu", threshold=torch.full((F,), 0.5), k=K, trained_as=kind, **fields
    )


def conformance() -> tuple[list[list[str]], list[str]]:
    """Return a row of cells for each kind, and the reasons that cells refer to by number."""
    rows: list[list[str]] = []
    notes: list[str] = []
    for name, kind in kinds():
        row = [name]
        for format in table.FORMATS:
            if format.write is not None:
                row.append(cell(kind, format, notes))
        rows.append(row)
    return rows, notes


def cell(kind: Specification, format: Format, notes: list[str]) -> str:
    """Return what became of `kind` in `format`; a reason that is new is added to `notes`."""
    assert format.write is not None
    with tempfile.TemporaryDirectory() as folder:
        try:
            format.write(kind, Path(folder))
        except ConfigError as error:
            reason = re.split(r"(?<=\.) +(?=[A-Z])", str(error))[0]
            if reason not in notes:
                notes.append(reason)
            return f"– [{notes.index(reason) + 1}]"
        return compared(kind, specification(Path(folder)))


def compared(before: Specification, after: Specification) -> str:
    """Return how far a dictionary that came back is from what was written."""
    if placed(before) != placed(after):
        return "**✗ another place**"
    x = 2 * torch.randn(ROWS, before.d_in, generator=torch.Generator().manual_seed(1))
    x = torch.cat([x, x.round()])  # of whole numbers, some equal a threshold
    with torch.no_grad():
        expected, found = (dictionary_of(s)(x) for s in (before, after))
    difference = float((found - expected).abs().max() / expected.abs().max())
    if difference > TOLERANCE:
        return f"**✗ {difference:.0e}**"
    pairs = [(getattr(before, name), getattr(after, name)) for name in TENSORS]
    same = all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)
    if same and difference == 0:
        return "✓ exact"
    return f"✓ {difference:.0e}" if difference else "✓ 0"


def placed(s: Specification) -> tuple[str, ...]:
    """Return where a dictionary belongs, and how it is wired."""
    place = s.place
    return (place.model, place.site, place.target, place.processing, s.wiring.kind)


def targets() -> list[list[str]]:
    """Return a row for each format that can be written."""
    writing = (format for format in table.FORMATS if format.write is not None)
    return [[f"`{f.name}`", f.about.partition(": ")[2], WRITTEN[f.name]] for f in writing]


def read_only() -> list[list[str]]:
    """Return a row for each format that nothing writes."""
    rows = []
    for format in table.FORMATS:
        if format.write is None:
            test = f"tests/dictionaries/formats/test_{format.name}.py"
            what = READ_ONLY[format.name]
            rows.append([f"`{format.name}`", format.about, what, f"[{Path(test).name}](../{test})"])
    return rows


def condensed() -> Iterator[tuple[str, str]]:
    """Yield releases, alternatives in braces and what may be left out in brackets, each with its names."""
    names: dict[str, list[str]] = {}
    for example in releases.examples():
        release, _, name = example.partition("/")
        optional = re.sub(r"\(\?P<\w+>([^)]*)\)\?", r"[\1]", release)
        plain = re.sub(r"\(\?P<\w+>([^)]*)\)", lambda m: braced(m[1]), optional)
        names.setdefault(plain, []).append(name)
    for release, own in names.items():
        yield f"`{release}`", ", ".join(f"`{name}`" for name in own)


def braced(alternatives: str) -> str:
    """Return `{a,b}` of `a|b`; what has no alternative stays."""
    return f"{{{alternatives.replace('|', ',')}}}" if "|" in alternatives else alternatives


def grid(head: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
