"""Put a finished `monosem pretrain` run into the package: `python dev/embed_model.py RUN NAME`.

Weights are rounded to float16 (loading turns them into float32 again); the tokenizer, the training
log and a README with recipe, licence and the losses of the rounded model and of the n-gram models
on held-out text come along. What the README says is measured here, after rounding.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from monosem import register
from monosem.cli.abilities import one
from monosem.core.artifact import read
from monosem.metrics.abilities import abilities
from monosem.metrics.language import evaluate_language_model
from monosem.models.language_model import LanguageModel
from monosem.models.loading import EMBEDDED, embedded_names
from monosem.text.store import TRAIN_PREFIX, TokenStore

LIMIT = 4_000_000
RUN = """**Text.** {corpora}; the training side of the split only.
{train_tokens:,} tokens, seen {epochs:.1f} times.{drilled}

**Recipe.**

    monosem tokens --corpora {spec} --out runs/{out}-tokens
    monosem pretrain {preset} --tokens runs/{out}-tokens --n-tokens {n_tokens} \\
        --batch-contexts {batch} --lr {lr} --seed {seed}{first} --out runs/{out}

{n_steps:,} steps, {hours:.2f} hours of one CPU core ({precision}); `{log}` is the run's log."""
README = """# {name}

A transformer of {n_layers} layer{plural} (d_model {d_model}, {n_heads} heads, {neurons}, context
{context}, {n_parameters:,} parameters, {vocab:,} byte-level BPE tokens), trained {begun} with
`monosem pretrain` and rounded to float16.

{runs}

Text of the interpreter and of installed packages is that of where it ran, so that a rerun
elsewhere gives a model of the same kind and not the same weights.

**Losses**, nats a token on held-out documents:

| text | this model | trigram | bigram | unigram |
|---|---|---|---|---|
{rows}

The n-gram models are interpolated Kneser-Ney, fitted on the training tokens of the same store.

**Abilities** on held-out cases (`monosem evaluate --abilities {name}`):

    {abilities}

**Licence.** MIT, like Monosem. The text it learnt from is under the licences of its packages:
{licences}.
"""


DRILLED = """ A share of {share:.0%}
of each step's contexts was random tokens that repeat, in place of text (`--drill`)."""
RENAMED = """ In {share:.0%} of the documents
each name, and a tenth of the other words, was another word of the vocabulary (`--rename`)."""


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished `monosem pretrain`")
    parser.add_argument("name")
    parser.add_argument(
        "--tokens", type=Path, nargs="+", required=True, help="the run's store first"
    )
    parser.add_argument(
        "--earlier", type=Path, nargs="*", default=[], help="RUN TOKENS of each run it goes on from"
    )
    parser.add_argument("--preset", help="shape of the model, where NAME is none")
    given = parser.parse_args()
    artifact = read(given.run, "language model")
    out = EMBEDDED / given.name
    shutil.rmtree(out, ignore_errors=True)
    round_weights(given.run / "model", out)
    shutil.copyfile(given.run / "log.jsonl", out / "log.jsonl")
    rows = []
    for folder in given.tokens:
        store = TokenStore.open(folder)
        losses = evaluate_language_model(LanguageModel.load(out), store, n_tokens=262_144)
        values = " | ".join(f"{losses[k]:.3f}" for k in ("loss", "trigram", "bigram", "unigram"))
        rows.append(f"| {' + '.join(f'`{c}`' for c in store.config.corpora)} | {values} |")
    table = one(abilities(LanguageModel.load(out))).replace("\n", "\n    ")
    runs = []
    for n in range(len(given.earlier) // 2):
        run, tokens = given.earlier[2 * n : 2 * n + 2]
        log = f"log-{n + 1}.jsonl"
        shutil.copyfile(run / "log.jsonl", out / log)
        started = f"{given.name}-{n}" if n else ""
        runs.append(
            recipe(
                given, read(run, "language model"), tokens, f"{given.name}-{n + 1}", started, log
            )
        )
    started = f"{given.name}-{len(runs)}" if runs else ""
    runs.append(recipe(given, artifact, given.tokens[0], given.name, started, "log.jsonl"))
    stores = [given.tokens[0], *given.earlier[1::2]]
    text = readme(given.name, artifact, stores, rows, table, runs)
    (out / "README.md").write_text(text)
    size = sum(p.stat().st_size for p in out.rglob("*"))
    print(f"{out}: {size:,} bytes")
    if size > LIMIT:
        raise SystemExit(f"{size:,} bytes is more than {LIMIT:,}.")


def round_weights(source: Path, out: Path) -> None:
    """Copy a Hugging Face folder with its weights rounded to float16."""
    register()
    shutil.copytree(source, out)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float16)
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)


def recipe(given, artifact, tokens: Path, out: str, started: str, log: str) -> str:
    """Return what one run read and how, with its commands."""
    store = TokenStore.open(tokens)
    summary, config = artifact.summary, artifact.config
    weights = " ".join(f"{w:g}" for w in store.config.weights)
    spec = " ".join(store.config.corpora) + (f" --weights {weights}" if weights else "")
    reading = config["reading"]
    first = "".join(f" --{k} {reading[k]:g}" for k in ("short", "whole", "drill", "rename"))
    first += f" --pieces {' '.join(map(str, reading['pieces']))}" if "pieces" in reading else ""
    named = store.config.tokenizer in embedded_names()
    trained = store.config.tokenizer.startswith(TRAIN_PREFIX)
    tokenizer = (
        store.config.tokenizer if named or trained else f"runs/{given.name}-1-tokens/tokenizer"
    )
    start = f"runs/{started}" if started else config["start"]
    share = ":".join(f"{w:g}" for w in store.config.weights)
    most = f" --max-tokens {store.config.max_tokens}" if store.config.max_tokens else ""
    return RUN.format(
        preset=given.preset or given.name,
        corpora=", ".join(f"`{c}`" for c in store.config.corpora)
        + (f", in the proportion {share}" if share else ""),
        train_tokens=store.n_tokens("train"),
        epochs=summary["epochs"],
        spec=f"{spec} --tokenizer {tokenizer} --context {store.context}{most}",
        n_tokens=config["n_tokens"],
        batch=config["batch_contexts"],
        lr=config["lr"],
        seed=config["seed"],
        first=first + (f" --start {start}" if start else ""),
        drilled="".join(
            text.format(share=reading[k])
            for k, text in (("drill", DRILLED), ("rename", RENAMED))
            if reading[k]
        ),
        n_steps=summary["n_steps"],
        hours=summary["seconds"] / 3600,
        precision=summary["precision"],
        out=out,
        log=log,
    )


def readme(
    name: str, artifact, stores: list[Path], rows: list[str], table: str, runs: list[str]
) -> str:
    """Fill the README in."""
    summary, config = artifact.summary, artifact.config
    start = config["start"]
    begun = f"from the weights of `{start}`" if start in embedded_names() else "from scratch"
    read_ = [json.loads((tokens / "config.json").read_text())["summary"] for tokens in stores]
    licences = sorted({licence for store in read_ for licence in store["licences"]})
    return README.format(
        name=name,
        begun=begun,
        **{k: config["model"][k] for k in ("n_layers", "d_model", "n_heads", "context")},
        plural="" if config["model"]["n_layers"] == 1 else "s",
        neurons=f"{config['model']['d_mlp']} neurons a layer ({config['model']['activation']})"
        if config["model"]["d_mlp"]
        else "no MLP",
        abilities=table,
        n_parameters=summary["n_parameters"],
        vocab=read_[0]["vocab_size"],
        runs="\n\nThen it went on:\n\n".join(runs),
        rows="\n".join(rows),
        licences=", ".join(licences),
    )


if __name__ == "__main__":
    main()
