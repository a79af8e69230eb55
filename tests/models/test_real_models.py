"""Trained models that nobody here trained, against what their publishers and a plain pass measured."""

import json

import pytest
import torch

from monosem.models.language_model import LanguageModel


@pytest.fixture(params=["stories260k", "babyllama-361"])
def folder(request, data):
    return data / "models" / request.param


def test_greedy_text_is_the_published_one(folder):
    expected = json.loads((folder / "expected.json").read_text())
    model = LanguageModel.load(folder, device="cpu")
    prompt = model.tokenizer(expected["prompt"], return_tensors="pt")["input_ids"]
    if prompt[0, 0] != model.model.config.bos_token_id:
        prompt = torch.cat([torch.tensor([[model.model.config.bos_token_id]]), prompt], dim=1)
    full = model.tokenizer(expected["greedy_continuation"])["input_ids"]
    with model.capturing(["blocks.0.mlp.hook_post"]):
        out = model.model.generate(prompt, max_new_tokens=len(full), do_sample=False)
    text = model.tokenizer.decode(out[0], skip_special_tokens=True)
    assert text.strip().startswith(expected["greedy_continuation"])


@pytest.mark.slow
def test_the_loss_on_stories_is_the_measured_one(folder, data):
    expected = json.loads((folder / "expected.json").read_text())["mean_loss_nats_per_token"]
    model = LanguageModel.load(folder, device="cpu")
    text = (data / "corpora" / "tinystories" / "tinystories.txt").read_text(encoding="utf-8")
    stories = [s.strip() for s in text.split("<|endoftext|>") if s.strip()][:200]
    bos, losses = model.model.config.bos_token_id, []
    for story in stories:
        ids = model.tokenizer(story, add_special_tokens=False)["input_ids"]
        tokens = torch.tensor([[bos, *ids][: model.context]])
        losses.append(model.losses(tokens).flatten())
    assert torch.cat(losses).mean().item() == pytest.approx(
        expected["shared tinystories.txt"], abs=1e-3
    )


def test_the_routing_model_answers_as_published(data):
    folder = data / "models" / "routing-gpt2"
    expected = json.loads((folder / "expected.json").read_text())
    model = LanguageModel.load(folder, device="cpu")
    features = torch.randint(0, 8, (64, 4), generator=torch.Generator().manual_seed(0))
    chosen = torch.arange(64) % 4
    tokens = torch.cat([features, 8 + chosen.unsqueeze(1)], dim=1)
    answers = model.logits(tokens)[:, -1].argmax(-1)
    assert torch.equal(answers, features[torch.arange(64), chosen])
    example = torch.tensor([expected["example_ids"]])
    assert model.tokenizer.decode(model.logits(example)[0, -1].argmax()) == expected["answer"]
