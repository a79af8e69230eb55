"""A model of two layers, text of few words, and training runs that are killed until one ends."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def deep(store):
    """A random model of two layers, whose MLPs speak much more softly than its residual stream."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from monosem.models.language_model import LanguageModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=store.vocab_size, n_positions=store.context, n_embd=16, n_layer=2, n_head=2
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.wte.weight.mul_(30)
    return LanguageModel(model, store.tokenizer, name="deep")


def sentences(folder, form, nouns, seed):
    """Write forty documents of one form of sentence, with nouns drawn by `seed`; return their folder."""
    random = np.random.default_rng(seed)
    for i in range(40):
        drawn = random.choice(nouns, size=120)
        (folder / f"{i}.txt").write_text(" ".join(form.format(noun) for noun in drawn))
    return folder


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    """A store of sentences of few words."""
    from monosem.text.tokens import TokensConfig, build_token_store

    nouns = ["ant", "bee", "cat", "dog"]
    folder = sentences(tmp_path_factory.mktemp("text"), "the {0} sees the {0}.", nouns, seed=0)
    config = TokensConfig(corpora=(str(folder),), tokenizer="train:300", context=32)
    return build_token_store(config, tmp_path_factory.mktemp("store") / "tokens")


@pytest.fixture(scope="session")
def letters(tmp_path_factory):
    """A folder of text of other words."""
    nouns = ["eel", "fox", "gnu", "hen"]
    return sentences(tmp_path_factory.mktemp("letters"), "a {0} met a {0}.", nouns, seed=1)


KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from monosem.activations.store import ActivationStore
from monosem.core.config import from_json
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokenStore
from monosem.training.trainer import TrainConfig, train, train_suite

torch.set_num_threads(1)
config, sites, threads, seed = (json.loads(word) for word in sys.argv[1:5])
model, tokens, out, kept = sys.argv[5:]
config, out, chance = from_json(TrainConfig, config), Path(out), random.Random(seed)
rest = LanguageModel.load(model, device="cpu"), TokenStore.open(tokens), out
options = {"checkpoint_seconds": 0.0, "activations": ActivationStore.open(kept) if kept else None}

def learn():
    torch.set_num_threads(threads)
    if sites:
        train_suite(config, sites, *rest, **options)
    else:
        train(config, *rest, **options)
    os._exit(0)

def saved():
    folder = out.with_name(out.name + ".checkpoint")
    return max((int(path.name[6:]) for path in folder.glob("state-*")), default=0)

def met(pid, moment):
    # Sleep until `moment()`; None if the process ended before, else the seconds from one save to the next.
    times = {}
    while not moment():
        times.setdefault(saved(), time.monotonic())
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return None
        time.sleep(0.002)
    seen = [*list(times.values())[1:], time.monotonic()]  # the first is of the start, not of a save
    return (seen[-1] - seen[0]) / max(1, len(seen) - 1)

# Of three kills one is at any moment, if it makes no more headway than the others; they fall when the process
# has saved some steps more. Six of them leave the rest of the run to the seventh, however fast a machine is.
found, most = [], config.n_steps // 8
for attempt in range(7):
    before, began = saved(), time.monotonic()
    child = os.fork()
    if child == 0:
        learn()
    if attempt < 6:
        after = chance.uniform(0.0, 0.4) if attempt % 3 == 0 else float("inf")
        steps = most if attempt % 3 == 0 else chance.randint(2, most)
        lasted = met(child, lambda: saved() >= before + steps or time.monotonic() - began > after)
        if lasted is not None:
            time.sleep(chance.uniform(0.0, lasted))  # in a step, or while the next state is written
            os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        print(json.dumps(found))
        sys.exit(os.waitstatus_to_exitcode(status))
    found.append(saved())
sys.exit("it never came to its end")
"""


@pytest.fixture
def killed(model, store, tmp_path_factory):
    """`killed(config, out)`: train to `out` in processes that are killed, until one comes to its end.

    Answers how many steps had been saved at each kill.
    """

    def train(config, out, *, sites=(), activations=None, threads=1, seed=0):
        from monosem.core.config import to_json

        home = tmp_path_factory.mktemp("killed") / "model"
        model.model.save_pretrained(home)
        store.tokenizer.save_pretrained(home)
        kept = "" if activations is None else activations.path
        words = [
            *map(json.dumps, (to_json(config), sites, threads, seed)),
            home,
            store.path,
            out,
            kept,
        ]
        done = subprocess.run(
            [sys.executable, "-c", KILLER, *map(str, words)],
            env={**os.environ, "MONOSEM_PROGRESS": "0", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            check=True,
        )
        found = json.loads(done.stdout)
        assert sum(step > 0 for step in found) >= 2, f"hardly anything was resumed: {found}"
        return found

    return train
