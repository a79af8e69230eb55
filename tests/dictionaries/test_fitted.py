"""Baselines against scikit-learn, scipy, and arithmetic by hand."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.decomposition import PCA
from sklearn.linear_model import Lasso, orthogonal_mp

from monosem.core.errors import ConfigError, ShapeMismatchError
from monosem.dictionaries import coded
from monosem.dictionaries.coded import Coded, CodedConfig, nonnegative_lasso, pursue, steepest
from monosem.dictionaries.fitted import classical, ica, nmf, pca
from monosem.dictionaries.linear import Linear, LinearConfig

D = 10


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """Skewed, correlated activations far from zero."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(D, D, generator=generator)
    return torch.rand(3000, D, generator=generator).pow(3) @ mixing + 5.0


def unit(n: int, d: int, seed: int = 1) -> torch.Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def test_five_lines_make_a_dictionary_of_ones_own_tensors() -> None:
    W_dec = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    mine = Linear.of(W_dec, b_dec=torch.tensor([1.0, 1.0]))
    # (3, 0) - (1, 1) = (2, -1): rows read 4, -3, -2; the first has length 2, so its latent is 4 * 2
    assert mine.encode(torch.tensor([[3.0, 0.0]])).tolist() == [[8.0, 0.0, 0.0]]
    assert mine.W_dec.tolist() == [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
    assert mine.decode(mine.encode(torch.tensor([[3.0, 0.0]]))).tolist() == [[9.0, 1.0]]


def test_tensors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeMismatchError, match=r"`W_enc` has shape \(3, 2\).*\(2, 3\)"):
        Linear.of(torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(ConfigError, match="`b_dec` has 1 entries that are not finite"):
        Linear.of(torch.ones(3, 2), b_dec=torch.tensor([0.0, float("nan")]))
    with pytest.raises(ConfigError, match=r"`k` must be in 0..3 latents, got 4"):
        LinearConfig(d_in=2, n_latents=3, k=4)


def test_random_directions_are_unit_vectors_of_their_seed() -> None:
    one, other = (Linear(LinearConfig(d_in=D, n_latents=40, seed=s)) for s in (0, 1))
    assert torch.allclose(one.W_dec.norm(dim=1), torch.ones(40))
    assert not torch.allclose(one.W_dec, other.W_dec)


def test_principal_axes_of_both_signs_reconstruct_as_scikit_learns_do(x: torch.Tensor) -> None:
    whole, theirs = pca(x), PCA().fit(x.double().numpy())
    assert torch.allclose(whole(x), x, atol=1e-4)
    assert whole.n_latents == 2 * D
    coordinates = theirs.transform(x.double().numpy())
    kept = np.sort(np.abs(coordinates), axis=1)[:, -3:]
    found = pca(x, k=3)
    values = found.encode_sparse(x).ragged().values.reshape(-1, 3).sort(1).values
    np.testing.assert_allclose(values.numpy(), kept, rtol=1e-3, atol=1e-4)
    weakest = np.abs(coordinates).argsort(1)[:, :-3]
    np.put_along_axis(coordinates, weakest, 0.0, 1)
    expected = theirs.inverse_transform(coordinates)
    np.testing.assert_allclose(found(x).numpy(), expected, atol=1e-3)


def test_one_sign_is_the_one_to_which_coordinates_are_skewed(x: torch.Tensor) -> None:
    found = pca(x, signs="one")
    coordinates = (x - found.b_dec) @ found.W_enc
    assert found.n_latents == D
    assert (coordinates.pow(3).mean(0) > 0).all()


def test_independent_components_find_independent_sources() -> None:
    generator = torch.Generator().manual_seed(3)
    sources = torch.rand(4000, 4, generator=generator).pow(4)
    mixing = torch.randn(4, 6, generator=generator)
    noise = 1e-3 * torch.randn(4000, 6, generator=generator)
    found = ica(sources @ mixing + noise)
    cosine = unit_rows(mixing) @ found.W_dec.t()
    assert cosine.amax(1).min() > 0.99
    assert torch.allclose(found(sources @ mixing), sources @ mixing, atol=1e-2)


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def test_pursuit_is_scikit_learns(x: torch.Tensor) -> None:
    atoms = unit(25, D)
    rows = (x - x.mean(0))[:50]
    codes, chosen = pursue(rows, atoms, 4)
    dense = torch.zeros(50, 25).scatter(1, chosen, codes)
    theirs = orthogonal_mp(atoms.double().t().numpy(), rows.double().t().numpy(), n_nonzero_coefs=4)
    np.testing.assert_allclose(dense.numpy(), theirs.T, atol=1e-3)


def test_codes_with_signs_have_a_latent_for_each() -> None:
    made = Coded(CodedConfig(d_in=2, n_latents=4, k=2))
    made.set_atoms_(torch.tensor([[3.0, 0.0], [0.0, 5.0]]))
    x = torch.tensor([[2.0, -7.0]])
    assert made.encode(x).allclose(torch.tensor([[2.0, 0.0, 0.0, 7.0]]), atol=1e-5)
    assert torch.allclose(made(x), x, atol=1e-5)


@pytest.mark.parametrize("n_greedy", [0, 3, 512])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_positive_lasso_is_the_minimum_however_many_steps_are_greedy(
    x: torch.Tensor, alpha: float, n_greedy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coded, "GREEDY_STEPS", n_greedy)
    atoms, rows = unit(25, D, seed=2), x[:20] - x.mean(0)
    found = nonnegative_lasso(rows, atoms, alpha, lambda: steepest(atoms))
    for row, codes in zip(rows.double().numpy(), found.double().numpy(), strict=True):
        if alpha == 0.0:
            best = nnls(atoms.double().t().numpy(), row)[0]
        else:  # theirs divides the squared error by the number of entries
            model = Lasso(alpha / D, positive=True, fit_intercept=False, tol=1e-10, max_iter=50_000)
            best = model.fit(atoms.double().t().numpy(), row).coef_
        assert loss(row, codes, atoms, alpha) <= loss(row, best, atoms, alpha) + 1e-4


def loss(row: np.ndarray, codes: np.ndarray, atoms: torch.Tensor, alpha: float) -> float:
    assert (codes >= 0).all()
    left = row - codes @ atoms.double().numpy()
    return 0.5 * float(left @ left) + alpha * float(codes.sum())


def test_greedy_steps_alone_reach_the_minimum_where_few_latents_are_on(
    x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coded, "MOST_STEPS", 0)  # nothing else may move
    atoms, rows = unit(25, D, seed=2), x[:40] - x.mean(0)
    alpha = 0.4 * float((rows @ atoms.t()).max())
    found = nonnegative_lasso(rows, atoms, alpha, lambda: steepest(atoms))
    assert 0 < int((found > 0).sum()) < 3 * len(rows)
    slope = (
        rows - found @ atoms
    ) @ atoms.t() - alpha  # none is left where a latent is on, or uphill
    assert slope.max() < 1e-3 and slope[found > 0].abs().max() < 1e-3
    assert nonnegative_lasso(rows[:0], atoms, alpha, lambda: 1.0).shape == (0, 25)


@pytest.mark.parametrize(("n_atoms", "scale"), [(25, 1.0), (6, 1.0), (25, 3.0)])
def test_the_steepest_curvature_is_the_largest_singular_value_of_the_atoms_products(
    n_atoms: int, scale: float, x: torch.Tensor
) -> None:
    atoms = scale * unit(n_atoms, D, seed=2)
    gram = atoms @ atoms.t()
    by_svd = float(torch.linalg.matrix_norm(gram, 2))
    assert steepest(atoms) == pytest.approx(by_svd, rel=1e-5)
    wanted = (x[:40] - x.mean(0)) @ atoms.t() - 0.3
    start = torch.zeros_like(wanted)
    codes, as_before = (
        coded._accelerated(gram, wanted, start, each) for each in (steepest(atoms), by_svd)
    )
    assert (codes > 0).any()
    torch.testing.assert_close(codes @ atoms, as_before @ atoms, rtol=1e-4, atol=1e-3)


def test_the_curvature_is_found_once_until_the_atoms_are_others(
    x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def spied(atoms: torch.Tensor) -> float:
        asked.append(len(atoms))
        return steepest(atoms)

    monkeypatch.setattr(coded, "steepest", spied)
    monkeypatch.setattr(coded, "ENTRIES_AT_ONCE", 25 * 8)  # eight rows at once
    config = CodedConfig(d_in=D, n_latents=25, codes="lasso", alpha=0.3)
    atoms, rows = unit(25, D, seed=2), x[:20] - x.mean(0)
    made = Coded(config)
    made.set_atoms_(atoms)
    with monkeypatch.context() as easy:
        easy.setattr(coded, "GREEDY_STEPS", 10_000)
        made.encode(rows)
    assert not asked  # all done greedily
    monkeypatch.setattr(coded, "GREEDY_STEPS", 0)
    made.encode(rows)
    made.encode_sparse(rows)
    assert len(asked) == 1
    near, other = unit(25, D, seed=2), Coded(config)
    near[0] = unit(1, D, seed=3)[0]
    other.set_atoms_(near)
    expected = other.encode(rows)
    changes: list[Callable[[], object]] = [
        lambda: made.set_atoms_(near),
        lambda: made.set_atoms_(atoms),
        lambda: made.load_state_dict(other.state_dict()),
        lambda: made.set_atoms_(atoms),
        lambda: made.W_dec.copy_(other.W_dec),
    ]
    for i, change in enumerate(changes):
        change()
        n = len(asked)
        found = made.encode(rows)
        assert len(asked) == n + 1
        if i % 2 == 0:
            assert torch.equal(found, expected)
    asked.clear()
    assert torch.equal(made.folded(1.0).encode(rows), expected)  # a copy knows what it knew
    assert torch.equal(copy.deepcopy(made).double().encode(rows), expected)
    assert not asked


def test_factors_that_are_not_negative_are_found_again() -> None:
    generator = torch.Generator().manual_seed(5)
    parts = torch.rand(4, 12, generator=generator) * (torch.rand(4, 12, generator=generator) < 0.4)
    codes = torch.rand(500, 4, generator=generator) * (
        torch.rand(500, 4, generator=generator) < 0.5
    )
    found = nmf(codes @ parts, 4)
    assert (unit_rows(parts) @ found.W_dec.t()).amax(1).min() > 0.95
    error = (found(codes @ parts) - codes @ parts).square().mean() / (codes @ parts).var()
    assert error < 0.02
    with pytest.raises(ConfigError, match="the least here is -1"):
        nmf(codes @ parts - 1.0, 4)


def test_learned_atoms_are_those_the_data_are_made_of() -> None:
    generator = torch.Generator().manual_seed(6)
    truth = unit(16, 12, seed=8)
    chosen = torch.rand(1000, 16, generator=generator).topk(2, 1).indices
    sizes = torch.randn(1000, 2, generator=generator).sign() * 2
    data = torch.zeros(1000, 16).scatter(1, chosen, sizes) @ truth + 1.0
    found = classical(data, 16, k=2, n_rounds=20)
    atoms = found.W_dec[: found.n_latents // 2]
    assert (truth @ atoms.t()).abs().amax(1).mean() > 0.9
    centred = data - data.mean(0)
    assert (found(data) - data).square().sum() / centred.square().sum() < 0.15


def test_a_scale_changes_codes_as_it_changes_data(x: torch.Tensor) -> None:
    few: dict[str, int] = {"n_rounds": 1, "k": 3}
    lasso = classical(x[:300], 12, codes="lasso", alpha=0.2, **few)
    for made in (classical(x[:300], 12, **few), lasso, pca(x)):
        folded = made.folded(4.0)
        torch.testing.assert_close(folded(4 * x[:9]), 4 * made(x[:9]), rtol=1e-3, atol=1e-2)


def test_a_sample_that_is_too_small_or_broken_is_refused(x: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="3 vectors is too small; it needs at least 10"):
        pca(x[:3])
    with pytest.raises(ConfigError, match="not finite"):
        pca(torch.cat([x, torch.full((1, D), float("inf"))]))
