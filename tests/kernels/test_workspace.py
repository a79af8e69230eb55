"""Gradients that a workspace keeps are those that autograd would have returned."""

import pytest
import torch
from torch import Tensor, nn

from monosem.kernels import dispatch, workspace
from monosem.kernels.encoder import encode_top_k
from monosem.kernels.pattern import Pattern
from monosem.kernels.workspace import Workspace

BATCH, D, N, K = 96, 24, 200, 7


class Weights(nn.Module):
    """A small dictionary's weights, encoder vectors contiguous."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.W_enc = nn.Parameter(torch.randn(N, D, generator=generator).t())
        self.b_enc = nn.Parameter(torch.randn(N, generator=generator))
        self.W_dec = nn.Parameter(torch.randn(N, D, generator=generator))
        self.b_dec = nn.Parameter(torch.randn(D, generator=generator))


def loss(w: Weights, x: Tensor, *, twice: bool) -> Tensor:
    """Something of everything: one product or two, rows of the dead, and what autograd adds itself."""
    pre, pattern = encode_top_k(x, w.b_dec, w.W_enc, w.b_enc, K)
    left = dispatch.residual(pre.relu(), w.W_dec, w.b_dec, pattern, x)
    total = left.square / x.numel()
    if twice:
        more, wide = encode_top_k(x, w.b_dec, w.W_enc, w.b_enc, 3 * K)
        total = total + dispatch.decode(more.relu(), w.W_dec, wide).square().mean()
        total = total + w.W_dec.square().mean()
    dead = torch.zeros(N, dtype=torch.bool)
    dead[:9] = True
    weights = w.b_dec, w.W_enc, w.b_enc, w.W_dec
    return total + dispatch.dead_error(x, *weights, dead, left.residual.detach(), 4)


@pytest.mark.parametrize("twice", [False, True])
def test_gradients_are_the_same_inside_and_out_step_after_step(twice: bool) -> None:
    w = Weights()
    kept = Workspace(w.parameters())
    places = set[tuple[int, int]]()
    for seed in range(3):
        x = torch.randn(BATCH, D, generator=torch.Generator().manual_seed(seed))
        expected = torch.autograd.grad(loss(w, x, twice=twice), list(w.parameters()))
        w.zero_grad()
        with workspace.scope(kept):
            loss(w, x, twice=twice).backward()
        kept.deliver_()
        for parameter, wanted in zip(w.parameters(), expected, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, wanted)
        assert w.W_enc.grad is not None
        assert w.W_dec.grad is not None
        assert w.W_enc.grad.stride() == w.W_enc.stride()
        places.add((w.W_enc.grad.data_ptr(), w.W_dec.grad.data_ptr()))
    assert len(places) == 1  # no new memory


def test_rows_alone_leave_the_others_zero() -> None:
    w = Weights()
    kept = Workspace(w.parameters())
    x = torch.randn(BATCH, D)
    dead = torch.zeros(N, dtype=torch.bool)
    dead[3] = True
    with workspace.scope(kept):
        for parameter in kept._gradients:  # what the last step left
            parameter.rows.fill_(torch.nan)
        weights = w.b_dec, w.W_enc, w.b_enc, w.W_dec
        dispatch.dead_error(x, *weights, dead, x, 4).backward()
    kept.deliver_()
    assert w.W_dec.grad is not None
    assert w.W_dec.grad[3].any()
    assert not w.W_dec.grad[torch.arange(N) != 3].any()


def test_a_step_that_says_nothing_leaves_no_gradient() -> None:
    w = Weights()
    Workspace(w.parameters()).deliver_()
    assert w.W_enc.grad is None


def test_weights_of_somebody_else_keep_autograds_way() -> None:
    mine, other = Weights(), Weights()
    with workspace.scope(Workspace(mine.parameters())):
        loss(other, torch.randn(BATCH, D), twice=False).backward()
    assert other.W_enc.grad is not None
    assert other.W_dec.grad is not None


def test_a_buffer_is_the_same_while_its_shape_is() -> None:
    with workspace.scope(Workspace()):
        first = workspace.empty("some", 3, 4, torch.float32).data_ptr()
        assert workspace.empty("some", 3, 4, torch.float32).data_ptr() == first
        assert workspace.empty("some", 3, 5, torch.float32).shape == (3, 5)
        assert workspace.empty("other", 3, 5, torch.bfloat16).dtype == torch.bfloat16


def test_what_is_for_the_step_is_given_once_a_step() -> None:
    kept = Workspace()
    steps: list[list[int]] = []
    for _ in range(2):
        with workspace.scope(kept):
            some = [workspace.empty_for_the_step(3, 4, torch.float32) for _ in range(3)]
            steps.append([tensor.data_ptr() for tensor in some])
    assert steps[0] == steps[1]
    assert len(set(steps[0])) == 3


def test_the_memory_of_gradients_is_lent_until_they_begin() -> None:
    w = Weights()
    kept = Workspace(w.parameters())
    homes = {parameter.rows.data_ptr() for parameter in kept._gradients}
    with workspace.scope(kept):
        first = workspace.empty("some", N, D, torch.bfloat16)
        second = workspace.empty("other", N, D, torch.float32)
        assert {first.data_ptr(), second.data_ptr()} == homes
        assert workspace.empty("some", N, D - 1, torch.float32).data_ptr() == first.data_ptr()
        assert workspace.empty("a third", N, D, torch.bfloat16).data_ptr() not in homes
        assert workspace.empty("some", N, D + 1, torch.float32).data_ptr() not in homes
        for parameter in kept._gradients:
            parameter.add([torch.zeros(N, D)])
        assert workspace.empty("some", N, D, torch.bfloat16).data_ptr() not in homes


@pytest.mark.parametrize("first", [False, True])
def test_residuals_of_pieces_lie_where_the_encoders_gradient_will_be(first: bool) -> None:
    """Also where another product's gradient comes `first`, and the memory is not free yet."""
    w = Weights()
    kept = Workspace(w.parameters())

    def loss_of_pieces(x: Tensor) -> Tensor:
        pre, even = encode_top_k(x, w.b_dec, w.W_enc, w.b_enc, K)
        starts = torch.arange(0, BATCH * K + 1, K)
        halves = torch.cat([starts[:-1, None], starts[:-1, None] + 3], 1).flatten()
        pattern = Pattern(even.indices.flatten(), torch.cat([halves, starts[-1:]]).int(), N)
        left = dispatch.residual(pre.relu().flatten(), w.W_dec, w.b_dec, pattern, x)
        if not first:
            return left.square
        more, wide = encode_top_k(x, w.b_dec, w.W_enc, w.b_enc, 3 * K)
        return left.square + dispatch.decode(more.relu(), w.W_dec, wide).square().sum()

    held: list[bool] = []
    for seed in range(3):
        x = torch.randn(BATCH, D, generator=torch.Generator().manual_seed(seed))
        expected = torch.autograd.grad(loss_of_pieces(x), list(w.parameters()))
        w.zero_grad()
        with workspace.scope(kept):
            total = loss_of_pieces(x)
            held.append(kept._gradients[0]._held)
            total.backward()
        kept.deliver_()
        for parameter, wanted in zip(w.parameters(), expected, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, wanted)
    assert held == [True] * 3
    assert kept._gradients[0].weight is w.W_enc


def test_what_a_weight_holds_is_nobody_elses_until_it_is_released() -> None:
    w = Weights()
    kept = Workspace(w.parameters())
    with workspace.scope(kept):
        held = workspace.empty_beside(w.W_dec, 2 * N, D, torch.float32).fill_(1.0)
        for name in ("some", "other", "third"):
            workspace.empty(name, N, D, torch.float32).fill_(2.0)
        workspace.empty_beside(w.W_dec, N, D, torch.float32).fill_(3.0)
        kept._gradients[0].add([torch.zeros(N, D)])
        assert (held == 1.0).all()
    kept.deliver_()
    with workspace.scope(kept):
        again = workspace.empty_beside(w.W_dec, N, D, torch.float32)
        workspace.release(again)
        assert workspace.empty("fourth", N, D, torch.float32).data_ptr() == again.data_ptr()
