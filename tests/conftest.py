"""One torch thread, no network, silent progress; skips that `MONOSEM_REQUIRE` turns into failures.

Examples of hypothesis are the same in every run and have no deadline, so that a test fails where the
code is wrong and not where a machine is busy; `MONOSEM_EXPLORE=1` looks for new ones.

The library is imported inside fixtures: tests of one room should not wait for all the others.
"""

import os
import socket
from pathlib import Path

import pytest

os.environ.setdefault("MONOSEM_PROGRESS", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile(
    "house",
    deadline=None,
    derandomize="MONOSEM_EXPLORE" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("house")

REQUIRED = set(filter(None, os.environ.get("MONOSEM_REQUIRE", "").split(",")))


def skip_or_fail(what: str, reason: str) -> None:
    """Skip for `reason`, unless `MONOSEM_REQUIRE` lists `what`."""
    if what in REQUIRED:
        pytest.fail(f"{reason} (MONOSEM_REQUIRE asks for {what})", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real models and corpora, from `MONOSEM_TEST_DATA`."""
    folder = os.environ.get("MONOSEM_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        skip_or_fail("data", "MONOSEM_TEST_DATA names no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium to drive."""
    import shutil

    found = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if found is None:
        skip_or_fail("chromium", "no Chromium on this machine")
    assert found is not None
    return found


class _Precise(torch.nn.Module):
    """An RMSNorm in the number type of its input; the families compute theirs in float32."""

    def __init__(self, norm):
        super().__init__()
        self.weight = norm.weight
        self.one = 1.0 if type(norm).__name__.startswith("Gemma") else 0.0
        self.variance_epsilon = getattr(norm, "variance_epsilon", None) or norm.eps

    def forward(self, x):
        mean = x.pow(2).mean(-1, keepdim=True)
        return x * torch.rsqrt(mean + self.variance_epsilon) * (self.one + self.weight)


@pytest.fixture(scope="session")
def precise_norms():
    """Put norms of full precision in place of RMSNorms: theirs compute in float32."""

    def replace(model):
        for path, module in list(model.named_modules()):
            if type(module).__name__.endswith("RMSNorm"):
                above, _, name = path.rpartition(".")
                setattr(model.get_submodule(above), name, _Precise(module))
        return model

    return replace


WORDS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen")
CONTEXT = 32


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """About 400 contexts of 32 tokens from 60 documents, each with words of its own.

    A room with needs of its own has another `store`, and another `model`, in its conftest.py.
    """
    import numpy as np

    from monosem.text.tokens import TokensConfig, build_token_store

    folder, random = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    for i in range(60):
        own = random.choice(WORDS, size=3, replace=False)
        words = random.choice(own, size=300)
        (folder / f"{i:02d}.txt").write_text(" ".join(f"the {w} {i}." for w in words))
    config = TokensConfig(corpora=(str(folder),), tokenizer="train:300", context=CONTEXT)
    return build_token_store(config, tmp_path_factory.mktemp("store") / "tokens")


@pytest.fixture(scope="session")
def model(store):
    """A random model of one layer that reads the store."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from monosem.models.language_model import LanguageModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=store.vocab_size,
        n_positions=CONTEXT,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_inner=24,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LanguageModel(GPT2LMHeadModel(config), store.tokenizer, name="random")


@pytest.fixture(scope="session")
def written():
    """`written(folder)`: write text, a token store and a random model there, and return the last two."""
    return _written


def _written(folder):
    from transformers import GPT2Config, GPT2LMHeadModel

    from monosem.models.language_model import LanguageModel
    from monosem.text.tokens import TokensConfig, build_token_store

    generator = torch.Generator().manual_seed(0)
    words = ["the", "a", "cat", "dog", "sees", "likes", "red", "12", "7", "house", "of", "in", "on"]
    (folder / "text").mkdir()
    for i in range(40):
        picks = torch.randint(len(words), (80,), generator=generator).tolist()
        (folder / "text" / f"{i}.txt").write_text(" ".join(words[p] for p in picks))
    text = {"corpora": (str(folder / "text"),), "heldout_share": 0.4}
    config = TokensConfig(tokenizer="train:300", context=16, **text)
    store = build_token_store(config, folder / "tokens")
    torch.manual_seed(0)
    shape = GPT2Config(
        n_layer=1,
        n_head=1,
        n_embd=16,
        n_inner=24,
        n_positions=16,
        vocab_size=store.vocab_size,
        activation_function="relu",
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(shape).save_pretrained(folder / "model")
    store.tokenizer.save_pretrained(folder / "model")
    return LanguageModel.load(folder / "model"), store


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that would leave the machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> object:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family != socket.AF_UNIX and host not in ("127.0.0.1", "localhost", "::1"):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def on_ranks():
    """`on_ranks(2, work)`: what `work(rank)` answers in as many processes, begun as by `torchrun`."""
    return _on_ranks


def _on_ranks(n, work, *, seconds=300):
    import multiprocessing
    import warnings

    import torch.distributed as dist

    context = multiprocessing.get_context("fork")
    listener = (
        socket.socket()
    )  # which stays open: between two questions another process could take the port
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    port = listener.getsockname()[1]
    pipes = [context.Pipe(duplex=False) for _ in range(n)]
    ranks = [
        context.Process(target=_as_rank, args=(rank, n, listener, work, pipes[rank][1]))
        for rank in range(n)
    ]
    with warnings.catch_warnings():  # of threads in a process that forks: none of them holds a lock
        warnings.simplefilter("ignore", DeprecationWarning)
        for rank in ranks:
            rank.start()
    store = dist.TCPStore(
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    for rank in ranks:
        rank.join(seconds)
        if rank.is_alive():
            for each in ranks:
                each.kill()
            pytest.fail(f"ranks did not end within {seconds} seconds")
    del store  # which lives as long as the ranks, as that of `torchrun` does
    answers = [pipe.recv() if pipe.poll() else None for pipe, _ in pipes]
    for answer, rank in zip(answers, ranks, strict=True):
        if isinstance(answer, AssertionError):
            raise answer
        if answer is None and rank.exitcode == 1:
            pytest.fail("a rank failed; what it wrote is above")
    return answers


def _as_rank(rank, n, listener, work, pipe):
    port = listener.getsockname()[1]
    listener.close()  # or a question to a store that has ended would wait for an answer
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    place["TORCHELASTIC_USE_AGENT_STORE"] = True
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    try:
        pipe.send(work(rank))
    except AssertionError as error:
        pipe.send(AssertionError(f"rank {rank}: {error}"))
        os._exit(1)
