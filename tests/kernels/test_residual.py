"""The residual, its squares and all gradients equal the plain formula, of whole rows and of pieces."""

import pytest
import torch
from torch import Tensor

from monosem.kernels import dispatch, reference, sparse_cpu
from monosem.kernels.pattern import Pattern

BATCH, D, N = 96, 24, 200


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_cpu, "AT_ONCE", 40 * D)


def inputs(pieces: int) -> tuple[list[Tensor], Pattern]:
    """`values, W_dec, b_dec, target`, and where the values are: rows of all lengths, 0 too."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 6, (BATCH * pieces,), generator=generator)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).int()
    indices = torch.randint(0, N, (int(counts.sum()),), generator=generator).int()
    made = [
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((len(indices),), (N, D), (D,), (BATCH, D))
    ]
    return made, Pattern(indices, starts, N)


def plain(values: Tensor, W_dec: Tensor, b_dec: Tensor, pattern: Pattern, target: Tensor) -> Tensor:
    """Residuals of all prefixes, in the words of the module's docstring."""
    dense = values.new_zeros(len(pattern), N)
    dense = dense.index_put((pattern.rows, pattern.indices), values, accumulate=True)
    prefixes = (dense @ W_dec).view(BATCH, -1, D).cumsum(1)
    return target[:, None] - b_dec - prefixes


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize("of", ["square", "residual", "both"])
@pytest.mark.parametrize("module", ["kernel", "reference"])
def test_values_and_gradients_equal_the_plain_formula(pieces: int, of: str, module: str) -> None:
    (values, W_dec, b_dec, target), pattern = inputs(pieces)
    function = dispatch.residual if module == "kernel" else reference.residual_at
    left = function(values, W_dec, b_dec, pattern, target)
    residuals = plain(values, W_dec, b_dec, pattern, target)
    expected = residuals[:, -1], residuals.square().sum()
    torch.testing.assert_close(tuple(left), expected)
    weights = torch.randn(BATCH, D, dtype=torch.float64)

    def loss(residual: Tensor, square: Tensor) -> Tensor:
        parts = {"square": 3 * square, "residual": (residual * weights).sum()}
        return parts[of] if of in parts else parts["square"] + parts["residual"]

    given = [values, W_dec, b_dec, target]
    wanted = torch.autograd.grad(loss(*expected), given)
    for a, b in zip(torch.autograd.grad(loss(*left), given), wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_the_residual_is_what_it_was_after_the_backward_pass() -> None:
    (values, W_dec, b_dec, target), pattern = inputs(3)
    left = dispatch.residual(values, W_dec, b_dec, pattern, target)
    before = left.residual.detach().clone()
    left.square.backward()
    assert torch.equal(left.residual, before)


def test_an_empty_batch_leaves_nothing() -> None:
    (values, W_dec, b_dec, target), _ = inputs(1)
    nothing = Pattern(torch.zeros(0, dtype=torch.int32), torch.zeros(1, dtype=torch.int32), N)
    left = dispatch.residual(values[:0], W_dec, b_dec, nothing, target[:0])
    assert left.residual.shape == (0, D)
    assert left.square == 0
