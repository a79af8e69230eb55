"""The ReLU autoencoder's sparse and dense steps equal the plain formula, values and every gradient."""

import pytest
import torch
from torch import Tensor

from monosem.kernels import dispatch, reference, relu_cpu
from monosem.runtime import matmul

BATCH, D, N = 2100, 24, 64  # three blocks, the last one short
L1 = 0.3


def inputs(shift: float, dtype: torch.dtype = torch.float32, n: int = N) -> list[Tensor]:
    """`x, centre, W_enc, b_enc, W_dec`; `shift` moves the biases, and with them the density."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    x, centre, rows, b_enc, W_dec = draw(BATCH, D), draw(D), draw(n, D), draw(n), draw(n, D)
    made = x, 0.1 * centre, (rows / D**0.5).t(), 0.1 * b_enc + shift, W_dec / D**0.5
    return [tensor.requires_grad_() for tensor in made]


def plain(given: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The formula, in the words of the module's docstring."""
    x, centre, W_enc, b_enc, W_dec = given
    latents = ((x - centre) @ W_enc + b_enc).clamp_min(0)
    return latents @ W_dec, latents.sum(), (latents > 0).sum(0)


def gradients(decoded: Tensor, total: Tensor, given: list[Tensor]) -> list[Tensor]:
    loss = (decoded - given[0].detach().flip(0)).square().mean() + L1 * total / BATCH
    return list(torch.autograd.grad(loss, given))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


def is_sparse(given: list[Tensor]) -> bool:
    x, centre, W_enc, b_enc, _ = (tensor.detach() for tensor in given)
    return relu_cpu._encode(x - centre, W_enc, b_enc)[1] is not None


@pytest.mark.parametrize(("shift", "sparse"), [(0.0, False), (-2.0, True)])
@pytest.mark.parametrize("n", [N, 61])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_paths_equal_the_formula(
    shift: float, sparse: bool, n: int, dtype: torch.dtype
) -> None:
    given = inputs(shift, dtype, n)
    assert is_sparse(given) is sparse
    seen, (decoded, total, firing) = relu_cpu.autoencode(*given), plain(given)
    assert torch.equal(seen.firing, firing)
    torch.testing.assert_close(seen.decoded, decoded, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen.total, total, rtol=1e-5, atol=1e-5)
    found, expected = gradients(seen.decoded, seen.total, given), gradients(decoded, total, given)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert relative_error(a, b) < 1e-5
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_each_output_alone_has_its_own_gradient(shift: float) -> None:
    given = inputs(shift, torch.float64)
    for output in (0, 1):
        found = relu_cpu.autoencode(*given)[output].sum()
        expected = plain(given)[output].sum()
        wanted = given if output == 0 else given[:4]  # the sum does not see the decoder
        pairs = (torch.autograd.grad(y, wanted) for y in (found, expected))
        for a, b in zip(*pairs, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_under_the_bf16_policy_both_paths_are_close_to_the_formula(shift: float) -> None:
    given = inputs(shift)
    with matmul.scope("bf16"):
        assert is_sparse(given) is (shift < 0)
        seen, rounded = relu_cpu.autoencode(*given), reference.autoencode(*given)
        found = gradients(seen.decoded, seen.total, given)
        same_rounding = gradients(rounded.decoded, rounded.total, given)
    decoded, total, firing = plain(given)
    assert torch.equal(seen.firing, rounded.firing)
    assert (seen.firing - firing).abs().sum() <= 0.02 * firing.sum()
    assert seen.decoded.dtype == seen.total.dtype == torch.float32
    assert relative_error(seen.decoded, decoded) < 0.01
    assert relative_error(seen.total, total) < 2e-3
    exact = gradients(decoded, total, given)
    for a, b, c in zip(found, same_rounding, exact, strict=True):
        assert a.dtype == torch.float32
        assert relative_error(a, b) < 0.01
        assert relative_error(a, c) < 0.1  # rounding moves a latent or two in a hundred across zero


@pytest.mark.parametrize("policy", ["fp32", "bf16"])
def test_the_sparse_and_the_dense_path_agree(
    policy: matmul.MatmulPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, results = inputs(-2.0), []
    for most in (1.0, 0.0):
        monkeypatch.setattr(relu_cpu, "SPARSE", most)
        with matmul.scope(policy):
            assert is_sparse(given) is (most == 1.0)
            seen = relu_cpu.autoencode(*given)
            found = gradients(seen.decoded, seen.total, given)
        results.append((seen, found))
    (sparse, of_sparse), (dense, of_dense) = results
    tolerance = 1e-5 if policy == "fp32" else 0.01
    assert torch.equal(sparse.firing, dense.firing)
    pairs = [(sparse.decoded, dense.decoded), (sparse.total, dense.total)]
    for a, b in pairs + list(zip(of_sparse, of_dense, strict=True)):
        assert relative_error(a, b) < tolerance


@pytest.mark.parametrize("kept", [[2], [2, 4], [0, 3]])
def test_only_what_is_asked_for_gets_a_gradient(kept: list[int]) -> None:
    for shift in (0.0, -2.0):
        given = inputs(shift)
        for i, tensor in enumerate(given):
            tensor.requires_grad_(i in kept)
        seen, (decoded, total, _) = relu_cpu.autoencode(*given), plain(given)
        for out, part in ((seen.decoded, seen.total), (decoded, total)):
            (out.square().mean() + part / BATCH).backward()
        doubled = [tensor.grad for tensor in given]
        assert [i for i, grad in enumerate(doubled) if grad is not None] == kept
        for i in kept:
            once = torch.autograd.grad(sum(t.mean() for t in plain(given)[:2]), given[i])[0]
            found = relu_cpu.autoencode(*given)
            again = torch.autograd.grad(found.decoded.mean() + found.total.mean(), given[i])[0]
            torch.testing.assert_close(again, once, rtol=1e-4, atol=1e-4)


def test_nobody_firing_and_an_empty_batch_pass_through() -> None:
    for rows, shift in ((BATCH, -100.0), (0, 0.0)):
        given = inputs(shift)
        given[0] = given[0].detach()[:rows]
        seen = relu_cpu.autoencode(*given)
        assert seen.decoded.shape == (rows, D)
        assert not seen.decoded.any()
        assert not seen.firing.any()
        (seen.decoded.sum() + seen.total).backward()
        assert all(tensor.grad is not None and not tensor.grad.any() for tensor in given[1:])


@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_a_nan_in_the_data_reaches_the_loss(shift: float) -> None:
    given = inputs(shift)
    with torch.no_grad():
        given[0][700, 3] = torch.nan
    seen = relu_cpu.autoencode(*given)
    assert seen.total.isnan()
    assert seen.decoded[700].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 8), (1, 3), (33, 64), (5, 61)])
def test_the_search_by_eight_bytes_finds_what_a_plain_one_finds(
    dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    latents = (drawn - 1).relu()
    expected = latents.flatten().nonzero()[:, 0]
    found = relu_cpu.positive_places(latents, len(expected))
    assert found is not None
    assert torch.equal(found, expected)
    if len(expected):
        assert relu_cpu.positive_places(latents, len(expected) - 1) is None
    latents[drawn < -1] = -0.0
    found = relu_cpu.positive_places(latents, latents.numel())
    assert found is not None
    assert torch.equal(found, expected)


def test_other_types_take_the_plain_formula() -> None:
    given = [tensor.detach().bfloat16().requires_grad_() for tensor in inputs(0.0)]
    seen = dispatch.autoencode(*given)
    assert seen.decoded.dtype == torch.bfloat16
    assert all(tensor.isfinite().all() for tensor in gradients(seen.decoded, seen.total, given))


@pytest.mark.gpu
def test_a_cuda_device_agrees_with_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    given = inputs(-2.0)
    moved = [tensor.detach().cuda().requires_grad_() for tensor in given]
    seen, there = dispatch.autoencode(*given), dispatch.autoencode(*moved)
    pairs = [(seen.decoded, there.decoded), (seen.total, there.total)]
    pairs += zip(
        gradients(seen.decoded, seen.total, given),
        gradients(there.decoded, there.total, moved),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b.cpu(), rtol=1e-3, atol=1e-3)
