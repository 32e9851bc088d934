"""The arithmetic that defines every scheme."""

import pytest
import torch
from torch import Tensor

from benchmarks.launches import counting
from quant.packing import pack_int4, unpack_int4
from quant.primitives import (
    dequantize_per_channel,
    dequantize_per_group,
    int8_matmul,
    linear_w8a8,
    quantize_per_channel,
    quantize_per_group,
    search_group_scales,
    sqnr_db,
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_per_channel_error_is_half_a_step() -> None:
    weight = randn(7, 50) * torch.logspace(-3, 3, 7)[:, None]
    q, scale = quantize_per_channel(weight)
    error = (dequantize_per_channel(q, scale, torch.float32) - weight).abs()
    assert (error <= scale[:, None] * 0.5001).all()
    assert q.abs().amax(dim=1).eq(127).all(), "the largest weight uses the whole range"


def test_zero_rows_stay_zero() -> None:
    for quantize in (quantize_per_channel, lambda w: quantize_per_group(w, 4)):
        q, scale = quantize(torch.zeros(2, 8))
        assert not q.any()
        assert scale.isfinite().all()


@pytest.mark.parametrize(("K", "group"), [(64, 64), (128, 64), (100, 64), (7, 4), (5, 8)])
def test_per_group_error_is_half_a_step(K: int, group: int) -> None:
    weight = randn(5, K)
    q, scale = quantize_per_group(weight, group)
    assert q.shape == weight.shape
    assert scale.shape == (5, -(-K // group))
    assert q.min() >= -8
    assert q.max() <= 7
    error = (dequantize_per_group(q, scale, group, torch.float32) - weight).abs()
    # bf16 storage may round a scale down by 2^-9, so the largest weight may be cut by that.
    steps = scale.float().repeat_interleave(group, dim=1)[:, :K]
    assert (error <= steps * 0.53).all()


def test_searched_scales_are_never_worse() -> None:
    weight = randn(32, 256) * (1 + 5 * (randn(32, 256, seed=1) > 2.5))
    plain = quantize_per_group(weight, 64)
    best = quantize_per_group(weight, 64, scale_NG=search_group_scales(weight, 64))
    before, after = (
        sqnr_db(weight, dequantize_per_group(q, scale, 64, torch.float32))
        for q, scale in (plain, best)
    )
    assert after > before + 0.5


@pytest.mark.parametrize("K", [1, 31, 1040, 1041, 5760])
def test_integer_product_is_exact(K: int) -> None:
    generator = torch.Generator().manual_seed(K)
    x = torch.randint(-127, 128, (9, K), generator=generator).to(torch.int8)
    w = torch.randint(-127, 128, (11, K), generator=generator).to(torch.int8)
    w[0], x[0] = 127, 127  # the largest possible sum
    expected = x.long() @ w.long().T
    assert (int8_matmul(x, w) == expected).all()


def test_w8a8_is_the_product_of_its_parts() -> None:
    x, weight, bias = randn(2, 3, 40), randn(6, 40, seed=1), randn(6, seed=2)
    q, scale = quantize_per_channel(weight)
    out = linear_w8a8(x, q, scale, bias)
    assert out.shape == (2, 3, 6)
    step = x.abs().amax(-1, keepdim=True) / 127
    dequantized = (x / step).round() * step
    expected = dequantized @ dequantize_per_channel(q, scale, torch.float32).T + bias
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_each_token_has_its_own_scale() -> None:
    """A loud token must not drown a quiet one."""
    x = torch.cat([randn(1, 64) * 1e4, randn(1, 64, seed=1)])
    weight = randn(16, 64, seed=2)
    q, scale = quantize_per_channel(weight)
    for row, out in zip(x, linear_w8a8(x, q, scale, None), strict=True):
        assert sqnr_db(row @ weight.T, out) > 35


def test_w8a8_relative_error_on_gaussians() -> None:
    """Known from a measurement of this product at 256x1152x5760: 0.0113."""
    x, weight = randn(64, 1152), randn(256, 1152, seed=1)
    out = linear_w8a8(x, *quantize_per_channel(weight), None)
    exact = x @ weight.T
    assert float((out - exact).norm() / exact.norm()) == pytest.approx(0.0113, abs=0.002)


@pytest.mark.parametrize("K", [1, 2, 63, 64])
def test_packing_round_trip(K: int) -> None:
    q = torch.randint(-8, 8, (3, K), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    packed = pack_int4(q)
    assert packed.shape == (3, (K + 1) // 2)
    assert (unpack_int4(packed, K) == q).all()


def test_packing_is_the_documented_one() -> None:
    assert pack_int4(torch.tensor([[-8, 7, 0]], dtype=torch.int8)).tolist() == [[0xF0, 0x88]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_device_expands_weights_in_one_launch(dtype: torch.dtype) -> None:
    """With nothing as wide as fp32 in between; the values are those that a CPU makes in blocks."""
    q, scale = quantize_per_channel(randn(5, 40))
    with counting() as counts:
        dequantize_per_channel(q.to("meta"), scale.to("meta"), dtype)
    assert dict(counts) == {"_to_copy": 2, "mul": 1}  # the copies are this test's
    out = torch.mul(q, scale[:, None], out=torch.empty(q.shape, dtype=dtype))
    assert torch.equal(out, dequantize_per_channel(q, scale, dtype))
