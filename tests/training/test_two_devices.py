"""Model and dictionary on devices of their own: a step costs what the slower of the two does."""

import itertools
import statistics
import time

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from monosem.activations.capture import CaptureSource
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.models.language_model import LanguageModel
from monosem.training.learner import Learner
from monosem.training.optim import OptimConfig

SITE, BATCH, BLOCK, N_STEPS = "blocks.1.hook_resid_post", 256, 1024, 160


@pytest.fixture
def devices() -> tuple[torch.device, torch.device]:
    """Where the model is, and where the dictionary: two GPUs, or the CPU and the one there is."""
    n = torch.cuda.device_count()
    if n == 0:
        pytest.skip("no CUDA device")
    model = torch.device("cuda", 0) if n > 1 else torch.device("cpu")
    return model, torch.device("cuda", n > 1)


def wait(devices) -> None:
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def seconds(work, devices) -> float:
    wait(devices)
    started = time.perf_counter()
    work()
    wait(devices)
    return time.perf_counter() - started


@pytest.mark.gpu
@pytest.mark.slow
def test_a_step_costs_no_more_than_the_slower_of_model_and_dictionary(store, devices):
    config = GPT2Config(
        vocab_size=store.vocab_size, n_positions=32, n_embd=512, n_layer=2, n_head=8,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = LanguageModel(GPT2LMHeadModel(config).to(devices[0]), store.tokenizer, name="wide")

    def source() -> CaptureSource:
        where = {"device": devices[1], "ahead": True, "seed": 1}
        return CaptureSource(model, store, SITE, batch_size=BATCH, buffer_tokens=BLOCK, **where)

    def learner(n_latents: int) -> Learner:
        dictionary = TopK(TopKConfig(d_in=512, n_latents=n_latents, k=32)).to(devices[1])
        return Learner("topk", dictionary, OptimConfig(), n_steps=1000, dead_tokens=10**7)

    batch = next(iter(source()))

    def capturing() -> None:
        for _ in itertools.islice(iter(source()), N_STEPS):
            pass

    def learning(made: Learner) -> None:
        for _ in range(N_STEPS):
            made.learn(batch)

    def both(made: Learner) -> None:
        for each in itertools.islice(iter(source()), N_STEPS):
            made.learn(each)

    capturing()
    ratios = {}
    for n_latents in (2**14, 2**16):  # one where the model, one where the dictionary may be slower
        made, found = learner(n_latents), []
        learning(made)
        for _ in range(5):
            slower = max(seconds(capturing, devices), seconds(lambda m=made: learning(m), devices))
            found.append(seconds(lambda m=made: both(m), devices) / slower)
        ratios[n_latents] = statistics.median(found)
    # the first block is waited for: one of as many as there are
    first = BLOCK / (BATCH * N_STEPS)
    assert all(ratio <= 1.1 + first for ratio in ratios.values()), ratios
