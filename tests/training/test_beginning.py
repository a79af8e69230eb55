import json
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from monosem.core.artifact import read
from monosem.core.errors import ArtifactKindError, ConfigError, ResumeError
from monosem.models.language_model import LanguageModel
from monosem.models.small import SmallModelConfig, build, preset
from monosem.text.tokens import build_token_store
from monosem.training import beginning
from monosem.training import pretrain as module
from monosem.training.growing import copy_weights
from monosem.training.next_token import chunked_loss
from monosem.training.pretrain import KIND, PretrainConfig, pretrain, recipe
from monosem.training.reading import ReadingConfig

SHAPE = SmallModelConfig(d_model=16, n_heads=2, d_mlp=32, context=32)
CONFIG = PretrainConfig(
    model=SHAPE, n_tokens=32 * 4 * 30, batch_contexts=4, keep_checkpoints=2, precision="fp32"
)


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def grown(shape, words, start):
    """A model of this shape that begins with the weights of `start`."""
    model = build(shape, vocab_size=words.vocab_size, bos=0, eos=0, seed=3)
    copy_weights(str(start), model, words.tokenizer.get_vocab())
    return model.eval()


@pytest.fixture(scope="module")
def attention_only(words, tmp_path_factory):
    """A trained model of one layer without an MLP."""
    config = replace(CONFIG, model=replace(SHAPE, d_mlp=0))
    return pretrain(config, words, tmp_path_factory.mktemp("start") / "lm")


@pytest.mark.parametrize(
    "change",
    [
        {"n_layers": 3, "activation": "gelu"},  # `transformers`' class: MLPs and blocks
        {"n_layers": 3, "d_mlp": 0},  # ours, blocks
        {"activation": "solu", "mlp_norm": True},  # ours, an MLP
    ],
)
def test_a_grown_model_says_what_its_start_said_and_all_of_it_learns(change, words, attention_only):
    model = grown(replace(SHAPE, **change), words, attention_only)
    tokens = torch.randint(0, words.vocab_size, (4, 32), generator=torch.Generator().manual_seed(0))
    start = LanguageModel.load(attention_only).model
    torch.testing.assert_close(model(tokens).logits, start(tokens).logits, atol=1e-6, rtol=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        chunked_loss(model, tokens, bf16=False)
        optimizer.step()
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert not still


def test_without_the_zeros_a_grown_model_says_something_else(words, attention_only, monkeypatch):
    monkeypatch.setattr("monosem.training.growing.WRITERS", ("nothing",))
    model = grown(replace(SHAPE, n_layers=2, activation="gelu"), words, attention_only)
    tokens = torch.arange(30)[None]
    start = LanguageModel.load(attention_only).model
    assert (model(tokens).logits - start(tokens).logits).abs().max() > 1e-4


def test_matrices_are_turned_where_the_classes_keep_them_otherwise(words, attention_only):
    model = grown(replace(SHAPE, activation="gelu"), words, attention_only)
    theirs = model.transformer.h[0].attn.c_proj.weight  # inputs first
    ours = LanguageModel.load(attention_only).model.transformer.h[0].attn.c_proj.weight
    assert torch.equal(theirs, ours.T) and not torch.equal(theirs, ours)


@pytest.mark.parametrize(
    "field", ["scale_attn_by_inverse_layer_idx", "scale_attn_weights", "layer_norm_epsilon"]
)
def test_a_start_that_computes_otherwise_is_refused(field, words, tmp_path):
    first = pretrain(replace(CONFIG, n_tokens=32 * 4), words, tmp_path / "first")
    said = json.loads((first / "config.json").read_text())
    other = {"layer_norm_epsilon": 1e-3}.get(field, not said.get(field))
    (first / "config.json").write_text(json.dumps(said | {field: other}))
    with pytest.raises(ConfigError, match=f"`{field}` is {other}"):
        grown(replace(SHAPE, n_layers=2), words, first)


def test_an_mlp_is_not_left_out(words, tmp_path):
    first = pretrain(replace(CONFIG, n_tokens=32 * 4), words, tmp_path / "first")
    with pytest.raises(ConfigError, match="another shape.*ln_2"):
        grown(replace(SHAPE, d_mlp=0), words, first)


def test_the_recipe_of_four_layers_begins_with_the_packaged_three():
    config = recipe("4L")
    start = LanguageModel.load(config.start, device="cpu")
    model = build(preset("4L"), vocab_size=2560, bos=0, eos=0, seed=0)
    assert copy_weights(config.start, model, start.tokenizer.get_vocab()) == start.hash


def test_a_run_may_begin_with_the_weights_of_another_of_its_shape(words, letters, tmp_path):
    first = pretrain(CONFIG, words, tmp_path / "first")
    still = replace(CONFIG, n_tokens=32 * 4, lr=1e-12, keep_checkpoints=0)
    again = pretrain(replace(still, start=str(tmp_path / "first")), words, tmp_path / "again")
    for name, weight in weights(first).items():
        torch.testing.assert_close(weights(again)[name], weight, atol=1e-9, rtol=0)
    deeper = replace(still, model=replace(SHAPE, n_layers=2), start=str(first))
    grown = weights(pretrain(deeper, words, tmp_path / "deeper"))
    for name, weight in weights(first).items():
        torch.testing.assert_close(grown[name], weight, atol=1e-9, rtol=0)
    assert grown["transformer.h.1.attn.c_attn.weight"].std() > 0
    shallower = replace(still, start=str(tmp_path / "deeper"))
    with pytest.raises(ConfigError, match="fewer layers"):
        pretrain(shallower, words, tmp_path / "shallower")
    for shape, said in (
        (replace(SHAPE, n_heads=4), "num_attention_heads|n_head"),
        (replace(SHAPE, activation="gelu"), "activation_function"),
    ):
        with pytest.raises(ConfigError, match=said):
            pretrain(replace(still, model=shape, start=str(first)), words, tmp_path / "otherwise")
    others = build_token_store(
        replace(words.config, tokenizer="train:300", corpora=(str(letters),)),
        tmp_path / "words",
    )
    with pytest.raises(ConfigError, match="tokenizer is another.*--start ''"):
        pretrain(replace(still, start=str(first)), others, tmp_path / "otherwise")
    other = replace(still, model=replace(SHAPE, d_mlp=48), start=str(first))
    with pytest.raises(ConfigError, match="another shape.*mlp"):
        pretrain(other, words, tmp_path / "other")


def test_a_run_goes_on_without_the_model_that_it_began_with(words, tmp_path, monkeypatch, capsys):
    pretrain(replace(CONFIG, n_tokens=32 * 4), words, tmp_path / "first")
    config = replace(CONFIG, n_tokens=32 * 4 * 3, start=str(tmp_path / "first"))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        original = module._Run._one_step

        def interrupting(self, contexts):
            signal.raise_signal(signal.SIGINT)
            return original(self, contexts)

        patched.setattr(module._Run, "_one_step", interrupting)
        pretrain(config, words, tmp_path / "second")
    began = LanguageModel.load(tmp_path / "first").hash
    other = replace(CONFIG, n_tokens=32 * 4, seed=5)
    pretrain(other, words, tmp_path / "first", fresh=True)
    with pytest.raises(ResumeError, match="another model"):
        pretrain(config, words, tmp_path / "second")
    shutil.rmtree(tmp_path / "first")
    folder = pretrain(config, words, tmp_path / "second")
    assert "was not compared" in capsys.readouterr().err
    summary = read(tmp_path / "second", KIND).summary
    assert summary["start"] == began and summary["start_compared"] is False
    assert pretrain(config, words, tmp_path / "second") == folder  # used again
    pretrain(other, words, tmp_path / "first")
    with pytest.raises(ArtifactKindError, match="--fresh"):
        pretrain(config, words, tmp_path / "second")


def test_a_run_whose_pieces_were_read_otherwise_before_does_not_go_on(words, tmp_path, monkeypatch):
    config = replace(CONFIG, n_tokens=32 * 4 * 3, reading=ReadingConfig(short=0.5))
    original = module._Run._one_step

    def interrupting(self, contexts):
        signal.raise_signal(signal.SIGINT)
        return original(self, contexts)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module._Run, "_one_step", interrupting)
        pretrain(config, words, tmp_path / "lm")
    with monkeypatch.context() as patched, pytest.raises(ResumeError, match="another version"):
        patched.setattr(beginning, "READING", beginning.READING + 1)
        pretrain(config, words, tmp_path / "lm")
    assert pretrain(config, words, tmp_path / "lm").is_dir()
    assert read(tmp_path / "lm", KIND).summary["start_compared"] is True
