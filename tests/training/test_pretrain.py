import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from monosem.core.artifact import read
from monosem.core.errors import ArtifactKindError, ConfigError, ResumeError
from monosem.models.language_model import LanguageModel
from monosem.models.small import PRESETS, SmallModelConfig, build
from monosem.text.genres.corpus import GENRES
from monosem.text.store import TokenStore
from monosem.text.tokens import TokensConfig, build_token_store
from monosem.training import next_token
from monosem.training import pretrain as module
from monosem.training.pretrain import (
    KIND,
    PretrainConfig,
    chunked_loss,
    heldout_loss,
    pretrain,
    recipe,
)
from monosem.training.reading import ReadingConfig
from monosem.training.schedule import context_order, drills, log_spaced, pieces

SHAPE = SmallModelConfig(d_model=16, n_heads=2, d_mlp=32, context=32)
CONFIG = PretrainConfig(
    model=SHAPE, n_tokens=32 * 4 * 30, batch_contexts=4, keep_checkpoints=2, precision="fp32"
)


@pytest.fixture(scope="module")
def store(words) -> TokenStore:
    return words


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_chunked_loss_is_the_plain_loss_with_its_gradients(monkeypatch):
    monkeypatch.setattr(next_token, "CHUNK", 7)
    model = build(SHAPE, vocab_size=50, bos=0, eos=0, seed=1)
    tokens = torch.randint(0, 50, (3, 20), generator=torch.Generator().manual_seed(0))
    logits = model(tokens).logits
    plain = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    plain.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    loss = chunked_loss(model, tokens, bf16=False)
    assert loss.item() == pytest.approx(plain.item(), abs=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-6, rtol=1e-5)


def test_the_same_seed_builds_the_same_model_and_disturbs_no_random_state():
    torch.manual_seed(5)
    first = build(SHAPE, vocab_size=50, bos=0, eos=0, seed=1)
    after = torch.rand(1)
    second = build(SHAPE, vocab_size=50, bos=0, eos=0, seed=1)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


def test_every_context_is_seen_once_an_epoch():
    order = context_order(10, seed=3)
    epochs = [sorted(next(order) for _ in range(10)) for _ in range(3)]
    assert epochs == [list(range(10))] * 3


def test_kept_checkpoints_are_log_spaced_and_leave_out_the_last_step():
    assert log_spaced(1000, 3) == [1, 10, 100]
    assert log_spaced(1, 5) == []


def test_learning_rate_rises_then_falls():
    rates = [CONFIG.lr_at(s, 100) for s in range(100)]
    assert rates[0] == pytest.approx(CONFIG.lr / 2)
    assert max(rates) == pytest.approx(CONFIG.lr)
    assert all(a >= b for a, b in zip(rates[2:], rates[3:], strict=False))
    assert rates[-1] == pytest.approx(CONFIG.lr / 20, rel=0.1)


def test_a_run_learns_and_is_an_ordinary_hugging_face_folder(store, tmp_path):
    config = replace(CONFIG, n_tokens=32 * 4 * 200, lr=2e-2)
    folder = pretrain(config, store, tmp_path / "lm")
    untrained = build(SHAPE, vocab_size=store.vocab_size, bos=0, eos=0, seed=0)
    summary = read(tmp_path / "lm", KIND).summary
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert heldout_loss(model, store) == pytest.approx(summary["loss"], abs=0.05)
    assert summary["loss"] < heldout_loss(untrained, store) - 1.0
    assert summary["loss"] < summary["unigram"]
    kept = sorted(p.name for p in (tmp_path / "lm" / "checkpoints").iterdir())
    assert kept == ["step-0000001", "step-0000014"]
    lines = [json.loads(x) for x in (tmp_path / "lm" / "log.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == [1, *range(20, 201, 20)]
    assert not (tmp_path / "lm.checkpoint").exists()
    assert LanguageModel.load(tmp_path / "lm").hash == LanguageModel.load(folder).hash


def test_abilities_are_logged_at_log_spaced_steps_and_data_and_licences_are_written_down(
    store, tmp_path
):
    config = replace(CONFIG, ability_cases=24, keep_checkpoints=0)
    pretrain(config, store, tmp_path / "lm")
    lines = [json.loads(x) for x in (tmp_path / "lm" / "log.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "abilities" in line]
    assert measured[-1]["step"] == 30 and len(measured) > 5
    assert measured[-1]["abilities"].keys() == abilities_known()
    assert 0 <= measured[-1]["abilities"]["induction"] <= 1
    assert measured[-1]["abilities"]["indirect-objects"] is None  # no names in this vocabulary
    summary = read(tmp_path / "lm", KIND).summary
    assert summary["corpora"] == list(store.config.corpora)
    assert summary["licences"] == store.summary["licences"]
    assert not (tmp_path / "lm" / "checkpoints").exists()


def abilities_known():
    return {genre.name for genre in GENRES if genre.ability is not None}


def test_every_preset_has_a_recipe_and_the_two_seeds_differ():
    for name, shape in PRESETS.items():
        assert recipe(name).model == shape
    assert recipe("1L-a") == PretrainConfig() != recipe("1L-b")
    assert replace(recipe("1L-b"), seed=0) == recipe("1L-a")


def test_pieces_fit_into_contexts_that_are_no_multiple_of_them(letters, tmp_path):
    shape = replace(SHAPE, context=48)
    folder = letters
    config = TokensConfig(corpora=(str(folder),), tokenizer="train:300", context=48)
    odd = build_token_store(config, tmp_path / "tokens")
    # More steps than a piece has tokens: every offset comes.
    run = replace(
        CONFIG,
        model=shape,
        n_tokens=48 * 40,
        batch_contexts=1,
        reading=ReadingConfig(short=1.0),
        keep_checkpoints=0,
    )
    assert pretrain(run, odd, tmp_path / "lm").is_dir()


def test_a_run_reads_short_pieces_first_and_whole_contexts_at_the_end(store, tmp_path, monkeypatch):
    shapes = []
    original = module.chunked_loss

    def noting(model, tokens, *, bf16):
        shapes.append(tuple(tokens.shape))
        return original(model, tokens, bf16=bf16)

    monkeypatch.setattr(module, "chunked_loss", noting)
    pretrain(
        replace(CONFIG, n_tokens=32 * 4 * 12, reading=ReadingConfig(short=0.5, pieces=(8, 16))),
        store,
        tmp_path / "lm",
    )
    steps = [shape for shape in shapes if shape[0] in (4, 12, 16) and shape[1] in (8, 16, 32)]
    assert steps[:4] == [(16, 8), (12, 8), (12, 8), (12, 8)]
    assert steps[4:6] == [(4, 16), (4, 16)] and set(steps[6:12]) == {(4, 32)}


def test_pieces_are_whole_stretches_of_the_contexts_they_are_cut_from():
    tokens = torch.arange(40).view(2, 20)
    cut = pieces(tokens, 6, offset=3)
    assert cut[:, 0].tolist() == [3, 9, 23, 29] and cut.shape == (4, 6)
    assert torch.equal(cut.diff(), torch.ones(4, 5, dtype=torch.int64))


def test_drills_repeat_a_stretch_and_hold_ordinary_tokens_after_bos():
    ordinary = np.arange(5, 4000)
    rows = drills(np.random.default_rng(0), 40, 64, ordinary, bos=2)
    assert rows.shape == (40, 64) and set(rows[:, 0]) == {2} and rows[:, 1:].min() >= 5
    again = drills(np.random.default_rng(0), 40, 64, ordinary, bos=2)
    assert np.array_equal(rows, again) and not np.array_equal(rows[0], rows[1])
    predicted = 0
    for row in rows.tolist():
        last: dict[int, int] = {}
        for token, following in zip(row, row[1:], strict=False):
            predicted += last.get(token) == following
            last[token] = following
    assert 0.4 < predicted / rows.size < 0.9  # of random tokens without a stretch none would be


def test_a_share_of_a_steps_contexts_is_drilled(store, tmp_path, monkeypatch):
    config = replace(CONFIG, n_tokens=32 * 4, reading=ReadingConfig(drill=0.5), keep_checkpoints=0)
    seen = []
    original = module.chunked_loss
    monkeypatch.setattr(
        module, "chunked_loss", lambda m, t, *, bf16: (seen.append(t), original(m, t, bf16=bf16))[1]
    )
    pretrain(config, store, tmp_path / "lm")
    text = {tuple(row) for row in store.tokens(store.contexts("train")).tolist()}
    assert [tuple(row) in text for row in seen[0].tolist()] == [True, True, False, False]
    assert not np.isin(seen[0][2:, 1:].numpy(), store.policy.special).any()


def test_batches_of_one_context_are_drilled_in_turn(store, tmp_path, monkeypatch):
    config = replace(
        CONFIG,
        n_tokens=32 * 8,
        batch_contexts=1,
        reading=ReadingConfig(drill=0.25),
        keep_checkpoints=0,
    )
    seen = []
    original = module.chunked_loss
    monkeypatch.setattr(
        module, "chunked_loss", lambda m, t, *, bf16: (seen.append(t), original(m, t, bf16=bf16))[1]
    )
    pretrain(config, store, tmp_path / "lm")
    text = {tuple(row) for row in store.tokens(store.contexts("train")).tolist()}
    steps = [seen[i] for i in range(8)]
    assert [tuple(step[0].tolist()) in text for step in steps] == [True, True, True, False] * 2


def test_drills_are_refused_in_contexts_in_which_nothing_comes_again(store, tmp_path):
    short = build_token_store(
        replace(store.config, context=8), tmp_path / "tokens", tokenizer=store.tokenizer
    )
    with pytest.raises(ConfigError, match="no stretch comes again"):
        pretrain(replace(CONFIG, reading=ReadingConfig(drill=0.5)), short, tmp_path / "lm")


def test_pieces_begin_where_a_document_begins_close_before():
    tokens = torch.arange(40)[None].repeat(3, 1) + 100
    tokens[0, 0] = tokens[1, 13] = tokens[2, 5] = tokens[2, 9] = 0
    found = pieces(tokens, 8, 2, bos=0)
    assert found.shape == (12, 8)
    assert found[0].tolist() == [0, *range(101, 108)]  # moved back by two to the context's own
    assert found[1, 0] == 110  # nothing near: where it was
    assert [int(piece[0]) for piece in found[4:8]] == [102, 110, 0, 126]
    assert [int(piece[0]) for piece in found[8:]] == [102, 0, 118, 126]
    assert torch.equal(pieces(tokens, 8, 2)[:, 0], torch.arange(102, 134, 8).repeat(3))


def test_an_interrupted_run_goes_on_to_the_same_weights(store, tmp_path, monkeypatch):
    whole = weights(pretrain(CONFIG, store, tmp_path / "whole"))
    steps = iter(range(10**9))
    original = module._Run._one_step

    def interrupting(self, contexts):
        if next(steps) == 13:
            signal.raise_signal(signal.SIGINT)
        return original(self, contexts)

    monkeypatch.setattr(module._Run, "_one_step", interrupting)
    with pytest.raises(KeyboardInterrupt):
        pretrain(CONFIG, store, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    resumed = weights(pretrain(CONFIG, store, tmp_path / "cut"))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_finished_run_is_reused_and_another_is_refused(store, tmp_path, monkeypatch):
    folder = pretrain(CONFIG, store, tmp_path / "lm")
    monkeypatch.setattr(module._Run, "train", lambda *_: pytest.fail("trained again"))
    assert pretrain(CONFIG, store, tmp_path / "lm") == folder
    other = PretrainConfig(model=SHAPE, n_tokens=CONFIG.n_tokens, batch_contexts=8)
    with pytest.raises(ArtifactKindError, match="--fresh"):
        pretrain(other, store, tmp_path / "lm")


def test_a_checkpoint_of_other_settings_is_refused(store, tmp_path, monkeypatch):
    def interrupting(*_):
        signal.raise_signal(signal.SIGINT)
        return torch.zeros(())

    monkeypatch.setattr(module._Run, "_one_step", interrupting)
    with pytest.raises(KeyboardInterrupt):
        pretrain(CONFIG, store, tmp_path / "lm")
    other = PretrainConfig(model=SHAPE, n_tokens=CONFIG.n_tokens, batch_contexts=8)
    with pytest.raises(ResumeError, match="--fresh"):
        pretrain(other, store, tmp_path / "lm")


def test_fresh_throws_an_interrupted_run_away(store, tmp_path, monkeypatch):
    def interrupting(*_):
        signal.raise_signal(signal.SIGINT)
        return torch.zeros(())

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module._Run, "_one_step", interrupting)
        pretrain(CONFIG, store, tmp_path / "lm")
    other = replace(CONFIG, seed=1)
    folder = pretrain(other, store, tmp_path / "lm", fresh=True)
    whole = weights(pretrain(other, store, tmp_path / "whole"))
    assert all(torch.equal(whole[k], v) for k, v in weights(folder).items())


def test_a_store_without_heldout_text_is_refused_before_work(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("the ant sees the bee. " * 400)
    config = TokensConfig(
        corpora=(str(tmp_path / "a.txt"),), tokenizer="train:270", context=32, heldout_share=0.0
    )
    store = build_token_store(config, tmp_path / "tokens")
    monkeypatch.setattr(module._Run, "train", lambda *_: pytest.fail("trained"))
    with pytest.raises(ConfigError, match="held-out"):
        pretrain(CONFIG, store, tmp_path / "lm")


def test_contexts_longer_than_the_model_are_refused(store, tmp_path):
    short = SmallModelConfig(d_model=16, n_heads=2, d_mlp=32, context=16)
    with pytest.raises(ConfigError, match="contexts of 32 tokens"):
        pretrain(PretrainConfig(model=short), store, tmp_path / "lm")


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_tokens", 0), ("lr", -1.0), ("warmup", 1.5)],
)
def test_bad_settings_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"`{field}`"):
        PretrainConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("short", 2.0), ("drill", -1.0), ("rename", 1.1), ("whole", -0.1), ("named", 2.0)],
)
def test_shares_of_what_is_read_are_shares(field, value):
    with pytest.raises(ConfigError, match=f"`{field}`"):
        ReadingConfig(**{field: value})
