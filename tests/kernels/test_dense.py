"""Dense products and counts under the matmul policy."""

import pytest
import torch

from monosem.kernels.dense import count_positive, policy_type, product
from monosem.runtime import matmul


@pytest.mark.parametrize("rows", [0, 1, 254, 255, 256, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counting_in_bytes_counts_every_row(rows: int, dtype: torch.dtype) -> None:
    latents = torch.randn(rows, 7, generator=torch.Generator().manual_seed(rows)).to(dtype)
    latents[:, 0] = 1.0  # fires on every row: the count that would not fit a byte
    assert torch.equal(count_positive(latents), (latents > 0).sum(0))


def test_the_policy_rounds_products_of_fp32_only_inside_its_scope() -> None:
    x, weight = torch.randn(64, 32), torch.randn(32, 48).requires_grad_()
    assert policy_type(x) == torch.float32
    assert torch.equal(product(x, weight), x @ weight)
    with matmul.scope("bf16"):
        assert policy_type(x) == torch.bfloat16
        assert policy_type(x.double()) == torch.float64
        rough = product(x, weight)
        rough.float().sum().backward()
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), x @ weight, rtol=0.02, atol=0.2)
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
