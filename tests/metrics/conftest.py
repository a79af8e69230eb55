from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import GPT2Config, GPT2LMHeadModel

from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokenStore

VOCAB, CONTEXT, SEPARATOR = 50, 16, 1


class ArrayStore(TokenStore):
    """A token store in memory: token 0 begins every context, token 1 stands between documents."""

    def __init__(self, train: np.ndarray, heldout: np.ndarray) -> None:
        self.path, self.hash, self.tokenizer_hash = Path("memory"), "hash", "tokenizer"
        self.context, self.vocab_size = CONTEXT, VOCAB
        self.splits = {"train": len(train), "heldout": len(heldout)}
        self.array = np.concatenate([train, heldout])

    def n_contexts(self, split):
        return self.splits[split]

    def contexts(self, split):
        n_train = self.splits["train"]
        return range(n_train) if split == "train" else range(n_train, len(self.array))

    def tokens(self, contexts):
        return self.array[np.asarray(contexts)]

    def ordinary(self, tokens):
        ordinary = tokens > SEPARATOR
        ordinary[:, 0] = False
        return ordinary


@pytest.fixture(scope="session")
def model() -> LanguageModel:
    """A random GPT-2 whose MLP matters: its weights are large."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=16,
        n_inner=24,
        n_positions=CONTEXT,
        vocab_size=VOCAB,
        activation_function="relu",
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LanguageModel(GPT2LMHeadModel(config).requires_grad_(False), name="tiny")


@pytest.fixture(scope="session")
def store(model: LanguageModel) -> TokenStore:
    """200 training and 40 held-out contexts that the model itself wrote, separators among them.

    It predicts them well, so taking its neurons away costs it something.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.zeros(240, 1, dtype=torch.int64)
    while tokens.shape[1] < CONTEXT:
        odds = model.model(input_ids=tokens).logits[:, -1].softmax(-1)
        odds[:, 0] = 0
        tokens = torch.cat([tokens, odds.multinomial(1, generator=generator)], 1)
    return ArrayStore(tokens[:200].numpy(), tokens[200:].numpy())


@pytest.fixture(scope="session")
def dictionary() -> TopK:
    """An untrained TopK for the MLP neurons of the first layer."""
    torch.manual_seed(0)
    return TopK(TopKConfig(d_in=24, n_latents=40, k=5)).requires_grad_(False)


@pytest.fixture(scope="session")
def jackknife():
    """Of a statistic, the ends of its normal 95 % interval over groups, which it expects of another's ends.

    Each group is left out once: no group is drawn, as the bootstrap does that it stands beside.
    """

    def ends(statistic, groups, within=0.3):
        names = np.unique(groups)
        without = np.array([statistic(np.flatnonzero(groups != name)) for name in names])
        spread = np.square(without - without.mean()).sum()
        error = np.sqrt((len(names) - 1) / len(names) * spread)
        value = statistic(np.arange(len(groups)))
        assert error > 0
        return pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=within * error)

    return ends


@pytest.fixture(scope="session")
def drawn_anew():
    """Of a statistic that is not normal, the ends between which it lies when groups are drawn plainly."""

    def ends(statistic, groups, n=2000, within=0.3):
        names, random = np.unique(groups), np.random.default_rng(12345)
        rows = [np.flatnonzero(groups == name) for name in names]
        draws = []
        for _ in range(n):
            chosen = random.choice(len(names), len(names))
            draws.append(statistic(np.concatenate([rows[i] for i in chosen])))
        assert np.std(draws) > 0
        low, high = np.sort(draws)[[n // 40, n - n // 40 - 1]]
        return pytest.approx((low, high), abs=within * np.std(draws))

    return ends


@pytest.fixture(scope="session")
def is_that_of_a_median():
    """Whether a measure is the median of an odd number of values, with the interval of drawing them anew.

    How often a drawn median is at most the k-th value is known: as often as more than half of the draws
    are among the first k. The ends lie between 1 and 4.5 %, and between 95.5 and 99 %.
    """

    def check(found, values):
        ordered, n = np.sort(values), len(values)
        assert n % 2 == 1
        at_most = stats.binom.sf(n // 2, n, np.arange(1, n + 1) / n)
        lowest, low, high, highest = ordered[np.searchsorted(at_most, (0.01, 0.045, 0.955, 0.99))]
        assert low < ordered[n // 2] < high
        within = 1e-6 * np.abs(ordered).max()
        assert found.value == pytest.approx(ordered[n // 2], abs=within)
        assert lowest - within <= found.low <= low + within
        assert high - within <= found.high <= highest + within
        return True

    return check
