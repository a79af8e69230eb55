"""Embedding spaces: every measure finds what was planted, and nothing in a model that has learnt nothing."""

import math

import pytest
import torch

from monosem.circuits import embeddings, variants
from monosem.core.errors import ConfigError
from monosem.models.language_model import LanguageModel
from monosem.models.randomised import untrained


@pytest.fixture(scope="module")
def gaussian():
    return torch.randn(1500, 24, generator=torch.Generator().manual_seed(0))


def test_a_sheet_has_two_dimensions_whatever_space_it_lies_in(gaussian):
    u, v = torch.rand(2, 1500, generator=torch.Generator().manual_seed(1))
    sheet = torch.stack([u, v, (6 * u).sin(), (4 * v).cos(), u * v], 1) @ gaussian[:5]
    assert embeddings.intrinsic_dimension(sheet) == pytest.approx(2, abs=0.25)
    assert embeddings.intrinsic_dimension(gaussian[:, :5]) == pytest.approx(5, abs=0.6)
    repeated = torch.cat([sheet, sheet[:700]])
    assert embeddings.intrinsic_dimension(repeated) == pytest.approx(2, abs=0.3)
    with pytest.raises(ConfigError, match="Only 1 rows differ"):
        embeddings.intrinsic_dimension(torch.zeros(50, 3))


def test_the_spectrum_counts_the_directions_in_use(gaussian):
    few = gaussian[:, :3] @ torch.linalg.qr(gaussian[:24, :3]).Q.T
    variances = embeddings.spectrum(few + 5.0)
    assert embeddings.participation(variances) == pytest.approx(3, abs=0.1)
    assert embeddings.dimensions(variances) == 3
    assert torch.allclose(variances.sum(), few.double().var(0, correction=0).sum())


def test_a_mean_is_seen_and_taken_away(gaussian):
    moved = gaussian + 3 * gaussian[0] / gaussian[0].norm() * math.sqrt(24)
    assert embeddings.mean_cosine(moved) == pytest.approx(0.9, abs=0.02)
    assert embeddings.mean_cosine(moved - moved.mean(0)) == pytest.approx(0, abs=0.01)
    pairs = torch.nn.functional.normalize(moved[:60], dim=1)
    plain = ((pairs @ pairs.T).sum() - 60) / (60 * 59)
    assert embeddings.mean_cosine(moved[:60]) == pytest.approx(float(plain), rel=1e-4)
    long = gaussian.clone()
    long[:, 0] = 6 * long[:, 0].exp()
    assert embeddings.isotropy(gaussian) > 0.9 > 0.6 > embeddings.isotropy(long)


def test_a_frequency_direction_is_found(gaussian):
    logs = 3 + torch.randn(1500, generator=torch.Generator().manual_seed(2))
    counts = logs.exp().long()
    axis = gaussian[0] / gaussian[0].norm()
    r2, direction = embeddings.frequency(gaussian + 2 * logs[:, None] * axis, counts)
    assert r2 > 0.7
    assert float(direction @ axis.double()) > 0.99
    assert embeddings.frequency(gaussian, counts)[0] < 0.02


def test_positions_on_a_curve_are_smooth_and_strangers_are_not(gaussian):
    at = torch.arange(256) / 256 * 2 * math.pi
    helix = torch.stack([at.sin(), at.cos(), at], 1) @ gaussian[:3]
    assert embeddings.roughness(helix) < 0.01
    assert embeddings.roughness(gaussian) == pytest.approx(1, abs=0.05)


def test_a_dictionary_of_sparse_rows_beats_principal_directions():
    generator = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(24, 24, generator=generator), dim=1)
    codes = torch.rand(1500, 24, generator=generator)
    codes = codes * (torch.rand(1500, 24, generator=generator) < 0.08)
    sparse, pca = embeddings.sparse_fvu(codes @ atoms, k=3)
    assert sparse < 0.6 * pca
    measured = embeddings._measures("W_E", torch.randn(50, 24), None, True, 0)
    assert "sparse_fvu" not in measured  # too few rows to learn so many atoms from


@pytest.fixture
def worded():
    """A model whose rows of ` word` are those of `word` and one offset; capitals have an offset each."""
    from tokenizers import Tokenizer, models
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["".join(chr(97 + (i * 7 + j * (i + 3)) % 26) for j in range(5)) for i in range(40)]
    words = sorted(set(words))
    texts = ["<s>", *words, *(f" {w}" for w in words), *(w.capitalize() for w in words)]
    made = Tokenizer(models.WordLevel({t: i for i, t in enumerate(texts)}, unk_token="<s>"))
    config = GPT2Config(
        **{"vocab_size": len(texts), "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16},
        **{"bos_token_id": 0, "eos_token_id": 0},
    )
    n, generator = len(words), torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        model = GPT2LMHeadModel(config).requires_grad_(False)
    W_E = model.transformer.wte.weight
    W_E.copy_(torch.randn(W_E.shape, generator=generator))
    offset = torch.randn(32, generator=generator)
    noise = 0.1 * torch.randn(n, 32, generator=generator)
    W_E[1 + n : 1 + 2 * n] = W_E[1 : 1 + n] + offset + noise
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")
    return LanguageModel(model, tokenizer, name="worded")


def test_a_shared_offset_is_told_from_offsets_of_their_own(worded):
    found = {o.kind: o for o in variants.offsets(worded)}
    space, capital = found["space"], found["capital"]
    assert space.matrix == "W_E"
    assert space.n == capital.n > 20
    assert space.shared > 0.95
    assert (space.analogies, space.untrained) == (1.0, pytest.approx(0, abs=0.1))
    assert abs(capital.shared) < 0.1
    assert capital.analogies < 0.2
    assert found["plural"].shared is None
    assert found["plural"].n == 0


def test_a_held_out_pair_is_in_no_pair_that_the_offset_is_learnt_from():
    x = torch.eye(6)
    chain = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 0]])
    with pytest.raises(ConfigError, match="No pair is left"):
        variants.analogies(x, chain[:2])


def test_pairs_are_words_of_small_letters_and_their_variants():
    texts = ["an", " an", "An", "_an", " An", "AN", "ans", "a", " a", "12", " 12", "an"]
    for kind, expected in (
        ("space", [[0, 1]]),
        ("capital", [[0, 2]]),
        ("capital after a space", [[1, 4]]),
        ("all capitals", [[0, 5]]),
        ("underscore", [[0, 3]]),
        ("plural", [[0, 6]]),
    ):
        assert variants.pairs(texts, kind).tolist() == expected
    with pytest.raises(ConfigError, match="must be one of space"):
        variants.pairs(texts, "weather")


def test_all_measures_of_a_model_stand_beside_an_untrained_one(make):
    model = make("gpt2-silu", n_embd=24)
    counts = torch.randint(0, 50, (61,), generator=torch.Generator().manual_seed(0))
    rows = embeddings.embedding_space(model, counts=counts)
    by_matrix = {name: {r.measure for r in rows if r.matrix == name} for name in ("W_E", "W_U")}
    assert by_matrix["W_E"] == by_matrix["W_U"]
    assert {"intrinsic", "frequency_r2", "sparse_fvu"} <= by_matrix["W_E"]
    (smooth,) = [r for r in rows if r.measure == "roughness"]
    assert smooth.matrix == "W_pos"
    assert smooth.untrained == pytest.approx(1, abs=0.15)
    assert all(math.isfinite(r.value) and math.isfinite(r.untrained) for r in rows)
    few = embeddings.embedding_space(make("llama"), dictionary=False)
    assert {r.matrix for r in few} == {"W_E", "W_U"}
    assert not {"frequency_r2", "sparse_fvu"} & {r.measure for r in few}
    with pytest.raises(ConfigError, match="61"):
        embeddings.embedding_space(model, counts=counts[:5])


def test_an_untrained_model_shares_only_its_shape(make):
    model = make("gpt2")
    state = torch.get_rng_state()
    fresh = untrained(model, 1)
    assert torch.equal(state, torch.get_rng_state())
    assert type(fresh.model) is type(model.model)
    assert fresh.model.dtype == model.model.dtype
    assert fresh.hash == untrained(model, 1).hash != untrained(model, 2).hash
