"""`monosem neurons`: which neurons write which tokens, what one of them does, and the embedding spaces."""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from monosem.cli.texts import rows_of_text
from monosem.core.errors import ConfigError
from monosem.rendering import table

if TYPE_CHECKING:
    from torch import Tensor

    from monosem.circuits.congruence import Search, Written
    from monosem.circuits.embeddings import Measured
    from monosem.circuits.neurons import Ablation, Feeder, Use, Uses
    from monosem.circuits.variants import Offset
    from monosem.models.language_model import LanguageModel

HELP = "ask what a language model's neurons write, what feeds them, and what its embeddings hold"

_NAMED = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Find the neurons that write a token of their own; look at one (`--neuron`), or at the embeddings."""

    model: Annotated[str, tyro.conf.Positional] = "1L-a"
    """A model of the package, a folder, or a name on the hub."""
    neuron: str = ""
    """One neuron, as LAYER.INDEX: its tokens and what they are to each other; with `--text` also before
    which tokens it is active, what feeds it, and what the model loses without it."""
    embeddings: bool = False
    """Look at the embedding spaces instead, beside an untrained model."""
    text: Path | None = None
    """A text file to measure on; token frequencies are counted in it too."""
    n_contexts: int = 64
    """Rows of tokens to measure on, each at most 256 long."""
    n: int = 20
    """Rows of a table."""
    seed: int = 0
    """Seed of shuffles and draws."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    json: bool = False
    """Print the results as JSON."""


@dataclass(frozen=True, kw_only=True)
class One:
    """What is said of one neuron; without text, its tokens alone."""

    written: "Written"
    uses: "Uses | None" = None
    feeders: "list[Feeder] | None" = None
    ablations: "list[Ablation] | None" = None


def main(arguments: list[str]) -> int:
    """Parse, measure, print."""
    given = tyro.cli(Arguments, args=arguments, prog="monosem neurons", description=HELP)
    _check(given)
    # Imported here for start-up time, as the help needs none of it.
    from monosem.models.language_model import LanguageModel

    model = LanguageModel.load(given.model, device=given.device)
    rows = None if given.text is None else rows_of_text(model, given.text, given.n_contexts)
    if given.embeddings:
        print(_embeddings(given, model, rows))
    elif given.neuron:
        print(_neuron(given, model, rows))
    else:
        print(_search(given, model))
    return 0


def _check(given: Arguments) -> None:
    for name in ("n", "n_contexts"):
        if getattr(given, name) < 1:
            raise ConfigError(f"`{name}` must be at least 1, got {getattr(given, name)}.")
    if given.neuron and not _NAMED.fullmatch(given.neuron):
        raise ConfigError(f"`neuron` must be LAYER.INDEX, as in 0.83, got `{given.neuron}`.")
    if given.neuron and given.embeddings:
        raise ConfigError(
            "`--neuron` and `--embeddings` ask for different things. Leave one of them out."
        )
    if given.text is not None and not (given.neuron or given.embeddings):
        raise ConfigError(
            "The search for neurons reads weights, no text. Leave `--text` out, or name a `--neuron`."
        )


def _search(given: Arguments, model: "LanguageModel") -> str:
    from monosem.circuits.congruence import search, written  # for start-up time

    found = search(model, seed=given.seed)
    shown = found.writers[: given.n]
    kinds = {(w.layer, w.index): written(model, w.layer, w.index) for w in shown}
    if given.json:
        record = {"model": given.model, **dataclasses.asdict(_first(found, given.n))}
        record["neurons"] = [_said_of(model, kinds[key]) for key in kinds]
        return json.dumps(record, indent=2)
    rows = [
        [
            _text(model, w.token),
            f"{w.layer}.{w.index}",
            f"{w.congruence:.2f}",
            f"{w.lead:.2f}",
            kinds[w.layer, w.index].kind,
            _tokens(model, kinds[w.layer, w.index].tokens),
        ]
        for w in shown
    ]
    head = ["token", "neuron", "congruence", "lead", "it writes", "its tokens"]
    note = (
        f"{len(found.found)} of {len(found.writers):,} tokens have a neuron that leads all others by more "
        f"than any token has in {len(found.nulls)} shuffles ({found.null:.2f} standard deviations)."
    )
    return f"{table.text(head, rows)}\n\n{note}"


def _neuron(given: Arguments, model: "LanguageModel", rows: "Tensor | None") -> str:
    from monosem.circuits.congruence import written  # for start-up time
    from monosem.circuits.neurons import HOW, ablate, feeders, use

    layer, index = (int(part) for part in given.neuron.split("."))
    one = One(written=written(model, layer, index))
    if rows is not None:
        tokens = one.written.tokens
        one = One(
            written=one.written,
            uses=use(model, rows, layer, index, tokens) if tokens else None,
            feeders=feeders(model, rows, layer, index, n=given.n),
            ablations=[
                ablate(model, rows, layer, index, how=how, tokens=tokens, seed=given.seed)
                for how in HOW
            ],
        )
    if given.json:
        return json.dumps(_one_json(given, model, one), indent=2)
    return "\n\n".join(_one_text(model, one, given.n))


def _embeddings(given: Arguments, model: "LanguageModel", rows: "Tensor | None") -> str:
    import torch

    from monosem.circuits.embeddings import embedding_space  # for start-up time
    from monosem.circuits.variants import offsets

    counts = None
    if rows is not None:
        counts = torch.bincount(rows.flatten(), minlength=model.vocab_size)
    measured = embedding_space(model, counts=counts, seed=given.seed)
    shifts = [] if model.tokenizer is None else offsets(model, seed=given.seed)
    if given.json:
        record = {
            "model": given.model,
            "measures": [dataclasses.asdict(m) for m in measured],
            "offsets": [dataclasses.asdict(o) for o in shifts],
        }
        return json.dumps(record, indent=2)
    return "\n\n".join([_measures(measured), *([_offsets(shifts)] if shifts else [])])


def _measures(measured: "list[Measured]") -> str:
    from monosem.circuits.embeddings import MEANINGS  # for start-up time

    rows = [
        [m.matrix, MEANINGS[m.measure], f"{m.value:.4g}", f"{m.untrained:.4g}"] for m in measured
    ]
    return table.text(["matrix", "measure", "here", "untrained"], rows)


def _offsets(shifts: "list[Offset]") -> str:
    rows = [
        [
            o.kind,
            o.matrix,
            f"{o.n:,}",
            *(_share(x) for x in (o.shared, o.untrained, o.analogies, o.without)),
        ]
        for o in shifts
        if o.shared is not None
    ]
    head = ["variant", "matrix", "pairs", "shared", "untrained", "told", "without offset"]
    few = ", ".join(dict.fromkeys(f"{o.kind} ({o.n})" for o in shifts if o.shared is None))
    parts = [table.text(head, rows)] if rows else []
    if rows:
        parts.append(
            "shared: the share of what a word and its variant differ by that is one offset for all words; "
            "told: held-out variants found with it, and without."
        )
    if few:
        parts.append(f"Too few pairs in the vocabulary to say anything: {few}.")
    return "\n\n".join(parts)


def _one_text(model: "LanguageModel", one: One, n: int) -> list[str]:
    w = one.written
    named = f" (`{w.string}`)" if w.string else ""
    kind = "no token that stands out" if w.kind == "nothing" else w.kind
    parts = [f"Neuron {w.layer}.{w.index} writes {kind}{named}."]
    if w.tokens:
        uses = one.uses.tokens if one.uses else [None] * len(w.tokens)
        lost = [dict((t, c) for t, _, c in a.tokens) for a in one.ablations or []]
        rows = [
            [_text(model, t), f"{c:.2f}", *_used(u), *(_signed(by.get(t)) for by in lost)]
            for t, c, u in list(zip(w.tokens, w.congruences, uses, strict=True))[:n]
        ]
        head = [
            "token",
            "congruence",
            "times",
            "area",
            "95 %",
            *(a.how for a in one.ablations or []),
        ]
        parts.append(table.text(head, rows))
    if one.uses:
        parts.append(f"Used: {one.uses.verdict}.")
    if one.feeders == []:
        parts.append("It is above zero nowhere in this text.")
    if one.feeders:
        rows = [[f.kind, f.site, _which(model, f), f"{f.value:+.4g}"] for f in one.feeders]
        parts.append(table.text(["fed by", "site", "which", "adds"], rows))
    for a in one.ablations or []:
        parts.append(
            f"{a.how}-ablated, the loss changes by {a.loss:+.2e} ± {_error(a.loss_error)} nats."
        )
    return parts


def _one_json(given: Arguments, model: "LanguageModel", one: One) -> dict[str, Any]:
    record = {"model": given.model, **_said_of(model, one.written)}
    record["uses"] = None
    if one.uses:
        record["uses"] = {**dataclasses.asdict(one.uses), "verdict": one.uses.verdict}
    for name in ("feeders", "ablations"):
        found = getattr(one, name)
        record[name] = None if found is None else [dataclasses.asdict(x) for x in found]
    return record


def _said_of(model: "LanguageModel", written: "Written") -> dict[str, Any]:
    texts = [_text(model, token) for token in written.tokens]
    return {**dataclasses.asdict(written), "texts": texts}


def _first(found: "Search", n: int) -> "Search":
    return dataclasses.replace(found, writers=found.writers[:n])


def _used(one: "Use | None") -> list[str]:
    if one is None:
        return ["—", "—", "—"]
    if one.area is None:
        return [f"{one.n:,}", "—", "—"]
    return [f"{one.n:,}", f"{one.area:.3f}", f"{one.low:.3f} to {one.high:.3f}"]


def _which(model: "LanguageModel", feeder: "Feeder") -> str:
    if feeder.index is None:
        return ""
    return _text(model, feeder.index) if feeder.kind == "token" else f"{feeder.index}"


def _tokens(model: "LanguageModel", tokens: tuple[int, ...]) -> str:
    shown = " ".join(_text(model, token) for token in tokens[:4])
    return f"{shown} …" if len(tokens) > 4 else shown


def _text(model: "LanguageModel", token: int) -> str:
    return f"{token}" if model.tokenizer is None else repr(model.tokenizer.decode([token]))


def _share(value: float | None) -> str:
    return "—" if value is None else f"{round(value, 3) + 0.0:.3f}"  # no −0.000


def _error(value: float | None) -> str:
    return "—" if value is None else f"{value:.1e}"


def _signed(value: float | None) -> str:
    return "—" if value is None else f"{value:+.3f}"
