"""Crosscoders over two models: trained on the same tokens, and refused where tokens differ."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from monosem.activations.pair import ModelPair
from monosem.cli import evaluate as evaluate_cli
from monosem.cli import train as train_cli
from monosem.core.errors import ConfigError, TokenizerMismatchError, UnknownNameError
from monosem.dictionaries.topk import TopKConfig
from monosem.metrics.evaluate import evaluate
from monosem.models.language_model import LanguageModel
from monosem.training.trainer import TrainConfig, train

SITE = "blocks.0.hook_resid_post"


def another(store, *, width: int, vocab_size: int, tokenizer) -> LanguageModel:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=store.context,
        n_embd=width,
        n_layer=1,
        n_head=2,
        n_inner=24,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LanguageModel(GPT2LMHeadModel(config), tokenizer, name="other")


@pytest.fixture(scope="module")
def other(store) -> LanguageModel:
    return another(store, width=12, vocab_size=store.vocab_size, tokenizer=store.tokenizer)


def test_each_site_is_captured_from_its_own_model(model, other, store) -> None:
    pair = ModelPair(model, other)
    tokens = torch.from_numpy(store.tokens([0, 1]))
    seen = pair.capture(tokens, [f"second:{SITE}", SITE])
    assert list(seen) == [f"second:{SITE}", SITE]
    assert torch.equal(seen[SITE], model.capture(tokens, [SITE])[SITE])
    assert torch.equal(seen[f"second:{SITE}"], other.capture(tokens, [SITE])[SITE])
    assert str(pair.check_site("second:blocks.0.resid_post")) == f"second:{SITE}"
    assert (pair.width(SITE), pair.width(f"second:{SITE}")) == (16, 12)
    with pytest.raises(UnknownNameError, match="`other` has no site"):
        pair.check_site("second:blocks.7.hook_resid_post")


def test_a_crosscoder_is_trained_on_both_and_says_so(model, other, store, tmp_path) -> None:
    config = TrainConfig(
        site=f"{SITE}, second:{SITE}",
        dictionaries=(TopKConfig(n_latents=32, k=4),),
        n_tokens=640,
        batch_size=64,
        buffer_tokens=1024,
        matmul="fp32",
    )
    run = train(config, ModelPair(model, other), store, tmp_path / "run")
    found = run["topk"]
    assert found.sites_in == (SITE, f"second:{SITE}")
    assert found.wiring.widths_in == (16, 12)
    assert found.site_shares().shape == (32, 2)
    assert model.hash in found.origin.model
    assert other.hash in found.origin.model
    with pytest.raises(ConfigError, match="two models"):
        evaluate(found, model, store)
    with pytest.raises(ConfigError, match="of two language models, `random \\+ other`"):
        evaluate_cli.open_model("", {"topk": found}, "cpu")


def test_models_with_other_tokens_are_refused(model, store) -> None:
    longer = another(store, width=12, vocab_size=store.vocab_size + 1, tokenizer=None)
    with pytest.raises(TokenizerMismatchError, match="different tokenizers"):
        ModelPair(model, longer)


def test_the_command_line_asks_for_a_second_model_where_one_is_read() -> None:
    given, knobs = train_cli.parsed(["--site", SITE, f"second:{SITE}"])
    with pytest.raises(ConfigError, match="--second-model"):
        train_cli.configuration(given, knobs)
    given, knobs = train_cli.parsed(["--site", SITE, "--second-model", "other"])
    with pytest.raises(ConfigError, match=f"--site {SITE} second:{SITE}"):
        train_cli.configuration(given, knobs)
    line = ["--site", SITE, f"second:{SITE}", "--second-model", "other"]
    given, knobs = train_cli.parsed(line)
    assert train_cli.configuration(given, knobs).sites == (SITE, f"second:{SITE}")
