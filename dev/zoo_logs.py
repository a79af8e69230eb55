"""Train the presets that have no weights in the package, and keep their logs: `python dev/zoo_logs.py`.

Each reads a few million tokens with its own recipe (`monosem pretrain NAME --n-tokens N`); models of one
layer, and `2L`, read Python and docstrings in the tokens of `1L-a`, the others generated text in those of
`2L-attn-only`. What is there already is used again. Logs go to docs/logs/NAME.jsonl, weights stay in the
folder of the runs, and the table of docs/zoo.md is written anew, from the logs and what the runs sum up.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from monosem.core.artifact import read
from monosem.models.loading import embedded_names
from monosem.models.small import PRESETS
from monosem.text.store import TokenStore
from monosem.text.tokens import TokensConfig, build_token_store
from monosem.training.pretrain import KIND, pretrain, recipe

ROOT = Path(__file__).parents[1]
LOGS, PAGE = ROOT / "docs/logs", ROOT / "docs/zoo.md"
BEGINS, ENDS = "<!-- logs: dev/zoo_logs.py -->\n", "<!-- end of logs -->"
ALIAS = ("1L", "tiny")
"""`1L` is `1L-a`; `tiny` is for tests."""
CODE = TokensConfig(
    corpora=("python", "docstrings"),
    weights=(1, 2),
    tokenizer="1L-a",
    context=256,
    max_tokens=6_000_000,
)
GENERATED = TokensConfig(
    corpora=("generated", "docstrings"),
    weights=(92, 8),
    tokenizer="2L-attn-only",
    context=128,
    max_tokens=6_000_000,
)


def main() -> None:
    """Train what is asked for, and write logs and table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", help="which; none: all without weights")
    parser.add_argument("--runs", type=Path, default=Path("runs/zoo-logs"))
    parser.add_argument("--n-tokens", type=int, default=5_000_000)
    given = parser.parse_args()
    lacking = [name for name in PRESETS if name not in (*embedded_names(), *ALIAS)]
    for name in given.presets or lacking:
        train(name, given.runs, given.n_tokens)
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def train(name: str, runs: Path, n_tokens: int) -> None:
    """Train one preset in `runs`, and keep its log with a first line that says what it is of."""
    config = dataclasses.replace(recipe(name), n_tokens=n_tokens, keep_checkpoints=0)
    text = CODE if config.model.context == CODE.context else GENERATED
    text = dataclasses.replace(text, tokenizer=config.start) if config.start else text
    place = runs / f"tokens-{text.tokenizer}"
    store = TokenStore.open(place) if place.exists() else build_token_store(text, place)
    pretrain(config, store, runs / name)
    summary = read(runs / name, KIND).summary
    head = {
        "preset": name,
        "command": f"monosem pretrain {name} --n-tokens {n_tokens} --keep-checkpoints 0",
        "corpora": list(text.corpora),
        **{k: summary[k] for k in ("n_parameters", "seconds", "precision", "loss", "trigram")},
    }
    LOGS.mkdir(exist_ok=True)
    log = (runs / name / "log.jsonl").read_text(encoding="utf-8")
    (LOGS / f"{name}.jsonl").write_text(f"{json.dumps(head)}\n{log}", encoding="utf-8")


def with_table(page: str) -> str:
    """Return the page with the table of the logs."""
    if page.count(BEGINS) != 1 or page.count(ENDS) != 1:
        raise SystemExit(f"{PAGE} has not one place between {BEGINS!r} and {ENDS!r}.")
    before, _, rest = page.partition(BEGINS)
    rows = [
        "| preset | parameters | tokens read | minutes | held-out loss | trigram | induction |",
        "|---|---|---|---|---|---|---|",
        *(row(path) for path in sorted(LOGS.glob("*.jsonl"))),
    ]
    table = "\n".join(rows)
    return f"{before}{BEGINS}\n{table}\n\n{ENDS}{rest.partition(ENDS)[2]}"


def row(path: Path) -> str:
    """Return the line of the table that a log makes."""
    head, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    measured = [line["abilities"]["induction"] for line in lines if "abilities" in line]
    cells = [
        f"[`{head['preset']}`](logs/{path.name})",
        f"{head['n_parameters']:,}",
        f"{lines[-1]['tokens'] / 1e6:.1f} M",
        f"{head['seconds'] / 60:.0f}",
        f"{head['loss']:.3f}",
        f"{head['trigram']:.3f}",
        f"{measured[-1]:.2f}" if measured else "",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
