"""A feature database in memory whose tokens are hostile, a server of it, and a browser that tells all."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import uvicorn

from monosem.explorer.server import create_app
from monosem.features.database import FeatureDatabase
from monosem.features.feature import Example, Feature, Window
from monosem.text.tokens import DocumentRef, TokensConfig

HOSTILE = [
    "</script><img src=x onerror=\"document.title='owned'\">",
    "<script>document.title='owned'</script>",
    "{{7*7}}",
    '"><svg onload="document.title=\'owned\'">',
    "</style><style>main{display:none}</style>",
    "<base href=http://example.com/>",
    "<meta http-equiv=refresh content='0;url=http://example.com/'>",
    "\x00",
    "\u202eoverride",
    "\ud800",
    "x" * 10_000,
    "\n",
    "\t",
    "   ",
    "",
]
WORDS = " the| return| self|def|(|):|\n|    | import| os|.|path| None| if| not| in| for| x| ="
VOCABULARY = [*WORDS.split("|"), *HOSTILE]
N_TOKENS = 6_000


class FakeStore:
    """What the pages ask of a token store, hostile where its text's owner could write."""

    config = TokensConfig(corpora=("python", "/home/someone/notes"), tokenizer="~/tokenizers/small")
    summary = {"licences": ["MIT", HOSTILE[0]]}
    context, hash, tokenizer_hash = 128, "123", "456"

    def n_tokens(self, split: str) -> int:
        return N_TOKENS if split == "train" else 700


class FakeDatabase(FeatureDatabase):
    """Answers as a real database does, from arrays drawn by a seed."""

    def __init__(self, name: str, n_latents: int, seed: int) -> None:
        rng = random.Random(seed)
        self.features: dict[int, Feature] = {}
        self.dictionary_name, self.n_latents = name, n_latents
        self.site = self.target = "blocks.0.mlp.hook_post"
        self.tokens = [rng.choice(VOCABULARY) for _ in range(N_TOKENS)]
        self.fired = [self._fire(latent, rng) for latent in range(n_latents)]
        self.store: Any = FakeStore()
        self.config = {
            "model": {"name": "/home/someone/models/tiny", "hash": "abc"},
            "dictionary": {"hash": "def"},
            "features": {"split": "train", "seed": 0},
        }
        self.metrics = {"n_tokens": N_TOKENS, "matmul": "fp32"}
        versions = {"monosem": "0.1.0", "torch": "2", "transformers": "5", "python": "3.12"}
        self.provenance = {**versions, "git_commit": None, "created": "2026-01-01T00:00:00"}

    def _fire(self, latent: int, rng: random.Random) -> dict[int, float]:
        if latent % 10 == 3:
            return {}
        rows = rng.sample(range(N_TOKENS), 2 if latent % 10 == 4 else 150)
        own = [i for i, t in enumerate(self.tokens) if t == VOCABULARY[latent % len(VOCABULARY)]]
        rows = rows if len(rows) < 3 else rows + own[:300]
        return {row: 0.05 + abs(rng.gauss(2.0, 1.0)) for row in sorted(rows)}

    def feature(self, index: int) -> Feature:
        if index not in self.features:
            self.features[index] = self._feature(index)
        return self.features[index]

    def _feature(self, index: int) -> Feature:
        rng = random.Random(index)
        fired = np.array(list(self.fired[index].values()))
        maximum = float(fired.max(initial=0.0))
        counts, edges = np.histogram(fired, bins=50, range=(0.0, maximum or 1.0))
        logits = [(i, rng.choice(VOCABULARY), 2.0 - i / 10) for i in range(20)]
        return Feature(
            index=index,
            status="dead" if not len(fired) else "ultralow" if len(fired) < 3 else "alive",
            density=len(fired) / N_TOKENS,
            n_fired=len(fired),
            max_activation=maximum,
            mean_activation=float(fired.mean()) if len(fired) else float("nan"),
            variance=0.5,
            skew=0.1,
            kurtosis=3.0,
            histogram=counts.astype(np.int64),
            histogram_edges=edges,
            top_logits=logits,
            bottom_logits=[(i, t, -e) for i, t, e in logits],
            neighbours=[((index + 1 + i) % self.n_latents, 0.9 - i / 10) for i in range(8)],
            neurons=[(i, 0.5 - i / 20) for i in range(8)],
        )

    def examples(self, index: int, kind: Any = None) -> list[Example]:
        fired = sorted(self.fired[index].items(), key=lambda pair: -pair[1])
        maximum = fired[0][1] if fired else 1.0
        found = [(r, a, "top", -1) for r, a in fired[:20]]
        for interval in range(11):
            inside = [f for f in fired if min(int(11 * f[1] / maximum), 10) == interval]
            found += [(r, a, "interval", interval) for r, a in inside[:5]]
        found += [(r, a, "random", -1) for r, a in fired[::17][:10]]
        return [
            Example(latent=index, row=r, activation=a, kind=k, interval=i)
            for r, a, k, i in found
            if kind in (None, k)
        ]

    def window(self, example: Example, before: int = 12, after: int = 8) -> Window:
        start, stop = max(example.row - before, 0), min(example.row + after + 1, N_TOKENS)
        fired = self.fired[example.latent]
        return Window(
            pieces=self.tokens[start:stop],
            activations=[fired.get(row, 0.0) for row in range(start, stop)],
            focus=example.row - start,
            row_start=start,
            document=DocumentRef(name=HOSTILE[0], source="s", licence="l", offset=0),
        )

    def _found(self, status: Any, search: str) -> list[Feature]:
        features = [self.feature(i) for i in range(self.n_latents)]
        return [
            f
            for f in features
            if status in (None, f.status)
            and (not search or any(t.strip().startswith(search) for _, t, _ in f.top_logits))
        ]

    def list(
        self,
        sort: str = "density",
        *,
        descending: bool = True,
        status: Any = None,
        search: str = "",
        offset: int = 0,
        limit: int = 50,
    ) -> "list[Feature]":
        found = self._found(status, search)
        found.sort(key=lambda f: getattr(f, sort), reverse=descending)
        return found[offset : offset + limit]

    def count(self, *, status: Any = None, search: str = "") -> int:
        return len(self._found(status, search))


@pytest.fixture(scope="session")
def databases() -> dict[str, FeatureDatabase]:
    return {"topk": FakeDatabase("topk", 120, 0), "neurons": FakeDatabase("neurons", 40, 1)}


@pytest.fixture(scope="session")
def metrics() -> dict[str, dict[str, Any]]:
    row = {"n_latents": 120, "l0": 16.0, "fvu": 0.25, "loss_recovered_zero": 0.94, "n_dead": 12}
    neurons = {
        **row,
        "fvu": "not applicable",
        "loss_recovered_zero": None,
        "void": {"loss_recovered_zero": "the gap is <0.05 nats"},
    }
    return {"topk": row, "neurons": neurons}


@pytest.fixture(scope="session")
def address(databases: dict[str, FeatureDatabase], metrics: dict[str, Any]) -> Iterator[str]:
    """A running explorer on a free port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = create_app(databases, metrics)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    for _ in range(1200):
        if server.started:
            break
        time.sleep(0.05)
    assert server.started
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@dataclass
class Watched:
    """A page, and everything that went wrong on it."""

    page: Any
    faults: list[str] = field(default_factory=list)

    def check(self) -> None:
        assert not self.faults, self.faults
        assert self.page.title() != "owned"


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """One Chromium for all tests of a file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Open addresses in Chromium; console errors, page errors and foreign requests are faults."""
    contexts: list[Any] = []

    def opened(url: str, **options: Any) -> Watched:
        contexts.append(browser.new_context(**options))
        contexts[-1].set_default_timeout(
            120_000
        )  # a busy machine needs more than 30 s for its first page
        watched = Watched(contexts[-1].new_page())

        def request(found: Any) -> None:
            if not found.url.startswith(("http://127.0.0.1:", "file://", "data:")):
                watched.faults.append(f"request: {found.url}")

        def console(message: Any) -> None:
            if message.type in ("error", "warning"):
                watched.faults.append(f"console: {message.text}")

        watched.page.on("request", request)
        watched.page.on("console", console)
        watched.page.on("pageerror", lambda e: watched.faults.append(f"page error: {e}"))
        watched.page.goto(url)
        return watched

    yield opened
    for context in contexts:
        context.close()
