"""The randomised model keeps what its matrices hold, and nothing of how."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from monosem.models.language_model import LanguageModel
from monosem.models.randomised import randomised


def test_every_matrix_keeps_its_entries_and_loses_their_order() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=8, n_positions=8, vocab_size=30, bos_token_id=0, eos_token_id=0
    )
    model = LanguageModel(GPT2LMHeadModel(config).requires_grad_(False), name="tiny")
    before = {name: p.clone() for name, p in model.model.named_parameters()}
    other = randomised(model, seed=3)
    for name, parameter in other.model.named_parameters():
        if parameter.ndim < 2:
            assert torch.equal(parameter, before[name]), name
            continue
        assert torch.equal(parameter.flatten().sort().values, before[name].flatten().sort().values)
        assert not torch.equal(parameter, before[name]), name
    assert all(torch.equal(p, before[name]) for name, p in model.model.named_parameters())
    assert other.model.lm_head.weight is other.model.transformer.wte.weight  # tied as before
    tokens = torch.arange(8)[None]
    logits = [m.model(input_ids=tokens).logits for m in (model, other, randomised(model, seed=3))]
    assert not torch.allclose(logits[0], logits[1])
    assert torch.equal(logits[1], logits[2])
    assert other.hash != model.hash
    other.self_test()
