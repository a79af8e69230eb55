"""How well dictionaries turn out: ours beside sae-lens, dictionary-learning and eai-sparsify.

    python benchmarks/quality.py [--quick] [--json] [--out runs/quality.jsonl] [--seconds 3600]
        [--data synthetic 1L-a stories260k babyllama-361] [--only topk batch_topk] [--libraries …]
        [--settings defaults tuned lr*2] [--seeds 0 1 2] [--ks 20 50] [--steps 1000] [--batch 512]
        [--n-latents 2048] [--model PATH --tokens PATH --site blocks.0.mlp.hook_post]

Everybody trains on the same rows in the same order for the same number of steps
(quality_libraries.py), and is evaluated by one function (quality_measures.py). "defaults" is each
library as it comes; "lr*2" that with twice its learning rate; "tuned" each with the same number of
learning rates to try. A table's intervals are
Student's t at 95 % over the seeds, which change initial weights and order; where two overlap, it is a
tie. With `--out` every finished run is kept and not made again; `--seconds` begins no more after
so long and shows what there is.

A model of width 512 to hold them against is pretrained, and its neurons read, by

    monosem tokens --corpora python --tokenizer train:4096 --out TOKENS
    monosem pretrain --tokens TOKENS --model.d-model 512 --model.n-layers 1 --out MODEL
    python benchmarks/quality.py --model MODEL/model --tokens TOKENS --site blocks.0.hook_resid_post

`make bench-peers` makes an environment with the other libraries; those that are missing are named.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from peers import AbsentError
from quality_cells import Cells, Json, LateError, best_multiple, matching_coefficient, row, verdict
from quality_data import SETS, Data, cache, given
from quality_job import Job
from quality_libraries import LIBRARIES, OURS
from quality_measures import check

from monosem.dictionaries.base import architectures

MODULES = {
    "sae-lens": "sae_lens",
    "dictionary-learning": "dictionary_learning",
    "eai-sparsify": "sparsify",
}
TUNABLE = ("topk", "batch_topk", "matryoshka", "jumprelu")
"""Kinds with a target, whose learning rate is searched; the others' search is for the l0."""
COUNTED = ("topk", "batch_topk", "matryoshka")
"""Kinds that everybody has at the same l0 without a search; of the others the quick run shows ours alone."""
FRONTIER = ("topk", "batch_topk")
"""Kinds that are trained at every k; the others at the second alone."""
TIMES = "lr*"
"""What a setting begins with that is the defaults but for the learning rate."""
HIGHER = {"fvu": False, "loss_recovered": True, "dead": False, "recovery": True}


def parse() -> argparse.Namespace:
    """What was asked for."""
    kinds = [name for name, kind in architectures().items() if kind.trainable]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="*", default=["synthetic", "1L-a"], choices=tuple(SETS))
    parser.add_argument("--only", nargs="*", default=kinds, choices=kinds)
    parser.add_argument("--libraries", nargs="*", default=list(LIBRARIES), choices=tuple(LIBRARIES))
    parser.add_argument("--settings", nargs="*", default=["defaults", "tuned"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--ks", nargs="*", type=int, default=[], help="none: each data set's own")
    for name, default in (("steps", 1000), ("batch", 512), ("n_latents", 2048)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--n-rows", type=int, default=2**18, help="distinct rows to train on")
    parser.add_argument("--n-heldout", type=int, default=2**15)
    parser.add_argument("--n-loss-tokens", type=int, default=8192)
    for name in ("model", "tokens", "site", "out"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--threads", type=int, default=1, help="more hardly help at these sizes")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--quick", action="store_true", help="one seed, one k, small; no search")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.quick:
        asked.data, asked.settings, asked.seeds, asked.ks = (
            ["synthetic", "1L-a"],
            ["defaults"],
            [0],
            [20],
        )
        asked.steps, asked.batch, asked.n_latents = 150, 256, 512
        asked.n_rows, asked.n_heldout, asked.n_loss_tokens = 2**15, 2**13, 2048
    return asked


def sets(asked: argparse.Namespace) -> Iterator[Data]:
    """The data, one after the other."""
    sizes = min(asked.n_rows, asked.steps * asked.batch), asked.n_heldout
    if asked.model:
        yield given(asked.model, asked.tokens, asked.site, *sizes)
        return
    for name in asked.data:
        yield SETS[name](*sizes, cache())


def rows_of(asked: argparse.Namespace, cells: Cells, data: Data) -> Iterator[Json]:
    """Train and measure everything on one set; a row for each library, setting and k."""
    for architecture in asked.only:
        ks = asked.ks or list(data.ks)
        middle = ks[min(1, len(ks) - 1)]
        for setting in asked.settings:
            for library in asked.libraries:
                if setting == "tuned" and architecture not in TUNABLE:
                    continue
                if asked.quick and library != OURS and architecture not in COUNTED:
                    continue  # there is no time to search
                job = Job(
                    architecture=architecture,
                    k=middle,
                    n_latents=asked.n_latents,
                    steps=asked.steps,
                    batch=asked.batch,
                    seed=asked.seeds[0],
                    tuned=setting == "tuned",
                    multiple=float(setting.removeprefix(TIMES)) if setting[:3] == TIMES else 1.0,
                )
                try:
                    settled = _settled(cells, data, library, job)
                    for k in ks if architecture in FRONTIER else [middle]:
                        yield _row(cells, data, library, settled, k, asked.seeds, setting)
                except AbsentError:
                    continue


def _settled(cells: Cells, data: Data, library: str, job: Job) -> Job:
    """The job with what was searched for."""
    if job.tuned:
        return replace(job, multiple=best_multiple(cells, data, library, job))
    if library != OURS and job.architecture not in TUNABLE:
        return replace(job, coefficient=matching_coefficient(cells, data, library, job))
    return job


def _row(
    cells: Cells, data: Data, library: str, job: Job, k: int, seeds: list[int], setting: str
) -> Json:
    jobs = [replace(job, k=k, seed=seed) for seed in seeds]
    return row(cells, [cells.cell(data, library, each) for each in jobs], setting)


def verdicts(rows: list[Json]) -> list[Json]:
    """Ours against each peer, at the same data, kind, setting and k."""
    found: list[Json] = []
    same = ("data", "architecture", "setting", "k")
    ours = {tuple(r[n] for n in same): r for r in rows if r["library"] == OURS}
    for peer in (r for r in rows if r["library"] != OURS):
        place = tuple(peer[n] for n in same)
        if place not in ours:
            continue
        kinds = {n: verdict(ours[place], peer, n, h) for n, h in HIGHER.items() if n in peer}
        found.append({**{n: peer[n] for n in same}, "library": peer["library"], **kinds})
    return found


def table(rows: list[Json]) -> str:
    """The rows as a table of Markdown, and how often ours is better, tied or worse."""
    head = ("data", "kind", "library", "setting", "k", "lr", "l0", "fvu ± ", "loss recovered ± ")
    head += ("dead", "dense", "‖x̂‖/‖x‖", "slope", "recovery", "recall", "stability (own; null)")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in rows:
        null = max(r.get("mmcs_random", 0), r.get("mmcs_shuffled", 0))
        stable = f"{r['mmcs']:.2f} ({r['nearest_own']:.2f}; {null:.2f})" if "mmcs" in r else ""
        cells = [r["data"], r["architecture"], r["library"], r["setting"], str(r["k"])]
        cells += [
            f"{r['lr']:.1e}",
            f"{r['l0']:.1f}",
            _spread(r, "fvu"),
            _spread(r, "loss_recovered"),
        ]
        cells += [_percent(r["dead"]), _percent(r["dense"]), f"{r['norm_ratio']:.3f}"]
        cells += [f"{r['slope']:.3f}", _spread(r, "recovery"), _percent(r.get("recall")), stable]
        lines.append("| " + " | ".join(cells) + " |")
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for each in verdicts(rows):
        for name in HIGHER:
            if each.get(name):
                place = counts.setdefault((each["setting"], name), {})
                place[each[name]] = place.get(each[name], 0) + 1
    for (setting, name), what in sorted(counts.items()):
        said = ", ".join(f"{word} {n}" for word, n in sorted(what.items()))
        lines.append(f"\nOurs against peers, {setting}, {name}: {said}.")
    for each in verdicts(rows):
        worse = [name for name in HIGHER if each.get(name) == "worse"]
        if worse:
            where = f"{each['data']} {each['architecture']} k {each['k']} ({each['setting']})"
            lines.append(f"\nWorse than {each['library']}: {where}, in {', '.join(worse)}.")
    return "\n".join(lines)


def _spread(r: Json, name: str) -> str:
    if r.get(name) is None:
        return ""
    interval = r.get(f"{name}_interval")
    return f"{r[name]:.4f}" + (f" ± {(interval[1] - interval[0]) / 2:.4f}" if interval else "")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def say(sentence: str) -> None:
    """One line of progress."""
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()


def main() -> None:
    """Train, measure and show."""
    asked = parse()
    torch.set_num_threads(asked.threads)
    check()
    missing = [name for name, module in MODULES.items() if importlib.util.find_spec(module) is None]
    for name in missing:
        say(f"{name} is not installed; `make bench-peers` installs it.")
    asked.libraries = [name for name in asked.libraries if name not in missing]
    cells = Cells(
        out=Path(asked.out) if asked.out else None,
        n_loss_tokens=asked.n_loss_tokens,
        say=say,
        until=time.monotonic() + asked.seconds,
    )
    rows: list[Json] = []
    try:
        for data in sets(asked):
            for each in rows_of(asked, cells, data):
                rows.append(each)
    except LateError:
        say("The time is over; the same command with the same --out goes on from here.")
    if asked.json:
        print(json.dumps({"rows": rows, "verdicts": verdicts(rows), "missing": missing}, indent=2))
    else:
        print(table(rows))


if __name__ == "__main__":
    main()
