"""Planted circuits: the logits are the rule, the planted heads are needed, the others do nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.constructions.planted import induction, selector, share_of
from monosem.core.errors import ConfigError
from monosem.models.language_model import LanguageModel

PLANTED = {
    "induction": lambda seed=0: induction(seed=seed),
    "share": lambda seed=0: share_of(5, seed=seed),
    "selector": lambda seed=0: selector(
        torch.rand(16, 16, generator=torch.Generator().manual_seed(seed)) < 0.3,
        torch.randn(16, 16, generator=torch.Generator().manual_seed(seed + 1)),
        seed=seed,
    ),
}


@pytest.fixture(params=PLANTED)
def planted(request):
    return PLANTED[request.param]()


def random_tokens(n=6, length=24, seed=0):
    tokens = torch.randint(1, 16, (n, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = 0
    return tokens


def test_logits_are_exactly_the_rule(planted):
    tokens = random_tokens()
    with torch.no_grad():
        found = planted.model(tokens).logits
    torch.testing.assert_close(found, planted.rule(tokens), atol=2e-6, rtol=0)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=5, deadline=None)
def test_they_are_for_any_seed_and_any_text(seed):
    for make in PLANTED.values():
        planted, tokens = make(seed), random_tokens(3, 20, seed)
        with torch.no_grad():
            found = planted.model(tokens).logits
        torch.testing.assert_close(found, planted.rule(tokens), atol=2e-6, rtol=0)


def test_only_the_planted_heads_matter(planted):
    model, tokens = LanguageModel(planted.model), random_tokens()
    model.self_test()
    whole = model.logits(tokens)
    for layer in range(model.n_layers):
        for head in range(model.n_heads):

            def without(z, head=head):
                z = z.clone()
                z[:, :, head] = 0
                return z

            with model.replaced({f"blocks.{layer}.attn.hook_z": without}):
                change = (model.logits(tokens) - whole).abs().max()
            if (layer, head) in planted.heads:
                assert change > 0.1
            else:
                assert change < 1e-5


def test_what_induction_says_is_what_followed():
    planted = induction()
    tokens = torch.tensor([[0, 3, 7, 5, 3, 7, 9, 3]])
    logits = planted.model(tokens).logits[0].detach()
    assert logits[4].argmax() == 7 and logits[4, 7] == pytest.approx(1.0, abs=1e-6)
    assert logits[5, 5] == pytest.approx(1.0, abs=1e-6)
    assert logits[7, 7] == pytest.approx(1.0, abs=1e-6)
    assert logits[3].abs().max() < 1e-6
    assert planted.heads != induction(seed=1).heads or planted.heads != induction(seed=2).heads


def test_the_share_of_a_token_is_its_share():
    logits = share_of(5).model(torch.tensor([[0, 5, 2, 5, 3]])).logits[0, :, 5]
    assert logits.tolist() == pytest.approx([0, 1, 1 / 2, 2 / 3, 1 / 2], abs=1e-6)


def test_a_selector_needs_a_value_for_every_key():
    with pytest.raises(ConfigError, match="row and a column"):
        selector(torch.ones(4, 4, dtype=torch.bool), torch.ones(4, 3))
