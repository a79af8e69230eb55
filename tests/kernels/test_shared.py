"""Kernels of ranks that share out rows or latents agree with those of one process."""

import pytest
import torch

from monosem.kernels import dispatch, shared
from monosem.kernels.pattern import Pattern, at_places
from monosem.kernels.select import first_largest
from monosem.runtime.distributed import ALONE, joined


def inputs(n_dead: int, *, batch: int = 40, d: int = 6, n: int = 24):
    generator = torch.Generator().manual_seed(n_dead)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    dead = torch.zeros(n, dtype=torch.bool)
    dead[torch.randperm(n, generator=generator)[:n_dead]] = True
    weights = [draw(d), draw(n, d).t(), draw(n) * 0.1, draw(n, d)]
    return draw(batch, d), weights, dead, draw(batch, d)


def measured(function, x, weights, dead, residual, k, **options):
    own = [w.clone(memory_format=torch.preserve_format).requires_grad_() for w in weights]
    error = function(x, *own, dead, residual, k, **options)
    error.backward()
    return error.detach(), [w.grad for w in own]


@pytest.mark.parametrize("fit", [True, False])
@pytest.mark.parametrize("n_dead", [1, 5, 20])
def test_the_dead_of_one_rank_are_those_of_one_process(n_dead, fit):
    x, weights, dead, residual = inputs(n_dead)
    one, gradients = measured(dispatch.dead_error, x, weights, dead, residual, 4, fit=fit)
    same, others = measured(shared.dead_error, x, weights, dead, residual, 4, fit=fit)
    torch.testing.assert_close(one, same)
    for mine, theirs in zip(gradients, others, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("fit", [True, False])
def test_ranks_that_share_out_rows_have_the_error_of_the_whole_batch(fit, on_ranks):
    x, weights, dead, residual = inputs(9)
    one, gradients = measured(dispatch.dead_error, x, weights, dead, residual, 4, fit=fit)

    def work(rank):
        with joined() as world:
            mine = x[rank::2], weights, dead, residual[rank::2], 4
            error, own = measured(shared.dead_error, *mine, fit=fit, rows=world)
            torch.testing.assert_close(world.sum_(error) / 2, one)
            for gradient, whole in zip(own, gradients, strict=True):
                torch.testing.assert_close(world.sum_(gradient.contiguous()) / 2, whole)
        return True

    assert all(on_ranks(2, work))


@pytest.mark.parametrize("fit", [True, False])
def test_ranks_that_share_out_latents_have_the_error_of_all_of_them(fit, on_ranks):
    x, weights, dead, residual = inputs(9)
    one, gradients = measured(dispatch.dead_error, x, weights, dead, residual, 4, fit=fit)

    def work(rank):
        with joined() as world:
            own = world.share(len(dead))
            centre, W_enc, b_enc, W_dec = weights
            mine = [centre, W_enc[:, own], b_enc[own], W_dec[own]]
            error, found = measured(
                shared.dead_error, x, mine, dead[own], residual, 4, fit=fit, latents=world
            )
            torch.testing.assert_close(error, one)
            torch.testing.assert_close(world.sum_(found[0]), gradients[0])
            wholes = gradients[1][:, own], gradients[2][own], gradients[3][own]
            for gradient, whole in zip(found[1:], wholes, strict=True):
                torch.testing.assert_close(gradient, whole)
        return True

    assert all(on_ranks(2, work))


def test_the_largest_of_all_ranks_are_kept(on_ranks):
    whole = torch.randn(12, generator=torch.Generator().manual_seed(0)).abs()
    floor = whole.topk(5).values.min()

    def work(rank):
        with joined() as world:
            own = whole[rank * 6 :][:6]
            pattern = Pattern(torch.arange(6).int(), torch.tensor([0, 2, 6]).int(), 6)
            kept, where = shared.batch_largest(own, pattern, 5, world, 6)
            assert kept.tolist() == own[own >= floor].tolist()
            assert where.indices.tolist() == (own >= floor).nonzero()[:, 0].tolist()
            assert int(where.row_starts[-1]) == len(kept)
            rows = shared.of_row(own.view(2, 3), 4, world)
            assert world.sum_(rows.sum(1)).tolist() == [4, 4]
        return True

    assert all(on_ranks(2, work))
    assert torch.equal(shared.of_row(whole, 3, ALONE), whole >= whole.topk(3).values[-1])


def test_of_equal_values_those_are_kept_that_one_process_keeps(on_ranks):
    values = torch.tensor([[1.0, 2.0, 1.0], [1.0, 3.0, 1.0], [1.0, 0.5, 1.0], [0.0, 0.0, 1.0]])

    def work(rank):
        with joined() as world:
            own = values[rank::2]
            pattern = at_places(torch.arange(own.numel()), *own.shape)
            found = []
            for n in range(1, 9):
                kept, where = shared.batch_largest(own.flatten(), pattern, n, world, 3)
                places = torch.zeros_like(own).index_put((where.rows.long(), where.indices), kept)
                found.append(places.tolist())
        return found

    ranks = on_ranks(2, work)
    for n, (even, odd) in enumerate(zip(*ranks, strict=True), 1):
        together = torch.tensor([even[0], odd[0], even[1], odd[1]])
        chosen, smallest = first_largest(values.flatten(), n)
        assert int(chosen.sum()) == n
        assert smallest == values.flatten().sort(descending=True).values[n - 1]
        assert torch.equal(together, values * chosen.view(4, 3)), n
