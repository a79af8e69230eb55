"""A trained SiLU model without its MLPs: the same logits, and the same text token for token."""

import copy

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from monosem.constructions.comparison import compare
from monosem.constructions.conversion import convert

N_STEPS, ROWS = 300, 16


@pytest.fixture(scope="module")
def trained(store):
    """A SiLU model of two layers after 300 steps, its first weights, and its losses."""
    config = GPT2Config(
        **{"vocab_size": store.vocab_size, "n_positions": 32, "n_embd": 32, "n_layer": 2},
        **{"n_head": 2, "n_inner": 64, "activation_function": "silu", "initializer_range": 0.1},
        **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        **{"tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": None},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
    first = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    contexts, random = store.contexts("train"), np.random.default_rng(0)
    losses = []
    for _ in range(N_STEPS):
        tokens = torch.from_numpy(store.tokens(random.choice(contexts, ROWS))).long()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return model.eval().requires_grad_(False), first, losses


@pytest.fixture(scope="module")
def text(store):
    return torch.from_numpy(store.tokens(store.contexts("heldout")[:8])).long()


@pytest.mark.slow
def test_it_is_trained(trained):
    model, first, losses = trained
    assert np.mean(losses[-20:]) < 0.6 * losses[0]
    for name, weight in model.state_dict().items():
        if "mlp" in name and name.endswith("weight"):
            assert (weight - first[name]).norm() > 0.3 * first[name].norm()


@pytest.mark.slow
def test_its_logits_are_the_same_in_float64(trained, text):
    model = copy.deepcopy(trained[0]).double()
    found = compare(model, convert(model).model, text)
    assert found.largest_logit > 3
    assert found.largest_difference < 1e-11
    assert found.kl < 1e-20
    assert found.argmax_agreement == 1.0


@pytest.mark.slow
def test_its_logits_are_within_twice_the_noise_of_float32(trained, text):
    single = trained[0]
    exact = copy.deepcopy(single).double()
    noise = compare(exact, single, text).largest_difference
    assert 0 < compare(exact, convert(single).model, text).largest_difference < 2 * noise


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_greedy_text_is_the_same_token_for_token(trained, text, dtype):
    model = copy.deepcopy(trained[0]).to(dtype)
    converted = convert(model).model
    wanted = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
    for cached in (True, False):
        one = model.generate(text[:, :8], use_cache=cached, **wanted)
        other = converted.generate(text[:, :8], use_cache=cached, **wanted)
        assert one.shape == (8, 32)
        assert torch.equal(one, other)
    assert len({tuple(row) for row in one[:, 8:].tolist()}) > 1  # texts of their own
