"""The sparse products equal their dense references, values and every gradient."""

import pytest
import torch
from torch import Tensor

from monosem.kernels import dispatch, reference, sparse_cpu
from monosem.kernels.encoder import MARGIN, encode_top_k
from monosem.kernels.pattern import Pattern, even, starts_of
from monosem.runtime import matmul

BATCH, D, N, K = 96, 24, 200, 7


def tensors(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    made = {
        "x": draw(BATCH, D),
        "centre": draw(D),
        "W_enc": draw(N, D).t(),
        "b_enc": draw(N),
        "W_dec": draw(N, D),
        "values": draw(BATCH, K),
    }
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def pattern() -> Pattern:
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(BATCH, N, generator=generator)
    scores[:, N // 2 :] = 0  # half of the latents are chosen by nobody
    return even(scores.topk(K).indices.int(), N)


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output.dtype)
    return list(torch.autograd.grad((output * weights).sum(), inputs))


def test_decoding_equals_its_reference_in_values_and_gradients() -> None:
    t, chosen = tensors(), pattern()
    inputs = [t["values"], t["W_dec"]]
    fast, plain = (m.decode_at(*inputs, chosen) for m in (sparse_cpu, reference))
    torch.testing.assert_close(fast, plain)
    for a, b in zip(gradients(fast, inputs), gradients(plain, inputs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("contiguous_rows", [True, False])
def test_encoding_equals_its_reference_in_values_and_gradients(contiguous_rows: bool) -> None:
    t, k = tensors(), K
    if not contiguous_rows:
        t["W_enc"] = t["W_enc"].detach().contiguous().requires_grad_()
    inputs = [t["x"], t["centre"], t["W_enc"], t["b_enc"]]
    fast, chosen = encode_top_k(*inputs, k)
    plain = reference.encode_at(*inputs, chosen)
    torch.testing.assert_close(fast, plain)
    best = reference.pre_activations(*inputs).topk(k).values
    torch.testing.assert_close(fast.sort(1, descending=True).values, best)
    for a, b in zip(gradients(fast, inputs), gradients(plain, inputs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("times", [1, 4])  # fewer rows than latents, and more
def test_inner_products_do_not_need_sorted_latents(times: int) -> None:
    t, chosen = tensors(), pattern()
    shuffled = even(chosen.indices[:, torch.randperm(K)].repeat(times, 1), N)
    x = t["x"].detach().repeat(times, 1)
    found = sparse_cpu.inner(x, t["W_enc"].detach(), shuffled)
    dense = x @ t["W_enc"].detach()
    torch.testing.assert_close(found, dense.gather(1, shuffled.indices.long()))


def test_the_transposed_pattern_lists_the_rows_of_each_latent() -> None:
    chosen = pattern()
    seen = chosen.transposed
    assert seen.starts[-1] == BATCH * K
    latents = chosen.indices.flatten().sort().values
    assert torch.equal(starts_of(latents, N), seen.starts)  # as a GPU finds them
    for latent in (0, 13, N // 2 - 1, N - 1):
        rows = seen.rows[seen.starts[latent] : seen.starts[latent + 1]].tolist()
        assert rows == (chosen.indices == latent).any(1).nonzero()[:, 0].tolist()


def test_a_penalty_on_latents_flows_through_the_sparse_encoder() -> None:
    t = tensors()
    inputs = [t["x"], t["centre"], t["W_enc"], t["b_enc"]]
    pre, chosen = encode_top_k(*inputs, K)
    fast = torch.autograd.grad(pre.relu().square().sum() + pre.abs().sum(), inputs)
    dense = reference.encode_at(*inputs, chosen)
    plain = torch.autograd.grad(dense.relu().square().sum() + dense.abs().sum(), inputs)
    for a, b in zip(fast, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_bf16_candidates_scored_again_choose_and_value_as_fp32_does() -> None:
    generator = torch.Generator().manual_seed(3)
    d, n, k = 128, 2048, 16
    x = torch.randn(512, d, generator=generator)
    rows = torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)
    inputs = [x, torch.zeros(d), rows.t(), torch.zeros(n)]
    exact, chosen = encode_top_k(*inputs, k)
    with matmul.scope("bf16"):
        rough, candidates = encode_top_k(*inputs, k)
    same = (chosen.indices.sort(1).values == candidates.indices.sort(1).values).all(1)
    assert same.float().mean() > 0.995, f"{MARGIN} candidates more than k are not enough"
    order, rough_order = chosen.indices.argsort(1)[same], candidates.indices.argsort(1)[same]
    expected, found = exact[same].gather(1, order), rough[same].gather(1, rough_order)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_bf16_weights_and_ragged_rows_decode_too() -> None:
    t, chosen = tensors(torch.float32), pattern()
    expected = reference.decode_at(t["values"], t["W_dec"], chosen)
    rough = dispatch.decode(t["values"].bfloat16(), t["W_dec"].bfloat16(), chosen)
    torch.testing.assert_close(rough.float(), expected, rtol=0.1, atol=0.1)
    offsets = torch.arange(0, BATCH * K + 1, K)
    ragged = t["values"].flatten(), chosen.indices.flatten(), offsets
    torch.testing.assert_close(dispatch.decode_ragged(*ragged, t["W_dec"]), expected)


def test_rows_of_different_lengths_equal_their_reference_in_values_and_gradients() -> None:
    t = tensors()
    counts = torch.randint(0, 2 * K, (BATCH,), generator=torch.Generator().manual_seed(4))
    counts[[0, 5, BATCH - 1]] = 0  # rows without entries at both ends
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).int()
    scores = torch.rand(BATCH, N, generator=torch.Generator().manual_seed(5))
    indices = torch.cat([row.topk(int(n)).indices for row, n in zip(scores, counts, strict=True)])
    ragged = Pattern(indices.int(), starts, N)
    assert ragged.rows.tolist() == [i for i, n in enumerate(counts.tolist()) for _ in range(n)]
    inputs = [t["x"], t["centre"], t["W_enc"], t["b_enc"]]
    plain = reference.encode_at(*inputs, ragged)
    fast = sparse_cpu.encode_at(*inputs, ragged, plain.detach())
    found = sparse_cpu.inner((t["x"] - t["centre"]).detach(), t["W_enc"].detach(), ragged)
    torch.testing.assert_close(found + t["b_enc"][ragged.indices], plain)
    decoded = sparse_cpu.decode_at(fast, t["W_dec"], ragged)
    expected = reference.decode_at(plain, t["W_dec"], ragged)
    torch.testing.assert_close(decoded, expected)
    assert not decoded[[0, 5, BATCH - 1]].any()
    inputs.append(t["W_dec"])
    for a, b in zip(gradients(decoded, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_an_empty_batch_passes_through() -> None:
    t = tensors()
    pre, chosen = encode_top_k(t["x"][:0], t["centre"], t["W_enc"], t["b_enc"], K)
    assert pre.shape == (0, K)
    assert dispatch.decode(pre.relu(), t["W_dec"], chosen).shape == (0, D)


@pytest.mark.gpu
def test_a_cuda_device_agrees_with_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    t = tensors(torch.float32)
    names = ("x", "centre", "W_enc", "b_enc", "W_dec")
    outputs: list[list[Tensor]] = []
    for device in ("cpu", "cuda"):
        inputs = [t[name].detach().to(device).requires_grad_() for name in names]
        pre, chosen = encode_top_k(*inputs[:4], K)
        decoded = dispatch.decode(pre.relu(), inputs[4], chosen)
        found = torch.autograd.grad(decoded.square().mean(), inputs)
        outputs.append([decoded.detach().cpu(), *(g.cpu() for g in found)])
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
