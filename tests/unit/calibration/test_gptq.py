"""GPTQ against rounding to nearest, and against trying everything."""

# M rows, K input channels, N output channels

import itertools

import pytest
import torch
from torch import Tensor

from calibration.gptq import gptq
from quant.config import QuantConfig
from quant.primitives import (
    dequantize_per_channel,
    dequantize_per_group,
    quantize_per_channel,
    quantize_per_group,
    search_group_scales,
    sqnr_db,
)

INT4 = QuantConfig(weight_bits=4, group_size=64)
INT8 = QuantConfig(weight_bits=8, act_bits=8)


def correlated_rows(M: int, K: int, *, rank: int) -> Tensor:
    """Activations as networks have them: few directions carry most of the power."""
    return torch.randn(M, rank) @ torch.randn(rank, K) + 0.3 * torch.randn(M, K)


def dense(q: Tensor, scale: Tensor, config: QuantConfig) -> Tensor:
    if config.weight_bits == 8:
        return dequantize_per_channel(q, scale, torch.float32)
    return dequantize_per_group(q, scale, config.group_size, torch.float32)


def nearest(weight: Tensor, config: QuantConfig) -> Tensor:
    if config.weight_bits == 8:
        return dense(*quantize_per_channel(weight), config)
    scales = search_group_scales(weight, config.group_size)
    return dense(*quantize_per_group(weight, config.group_size, scale_NG=scales), config)


@pytest.mark.parametrize("K", [64, 200, 300])
@pytest.mark.parametrize("config", [INT4, QuantConfig(weight_bits=4, group_size=32), INT8], ids=str)
def test_better_than_nearest_on_rows_it_has_not_seen(config: QuantConfig, K: int) -> None:
    torch.manual_seed(0)
    weight, rows = torch.randn(48, K), correlated_rows(1200, K, rank=16)
    seen, fresh = rows[:1000], rows[1000:]
    q, scale = gptq(weight, seen.T @ seen, config)
    ours = sqnr_db(fresh @ weight.T, fresh @ dense(q, scale, config).T)
    plain = sqnr_db(fresh @ weight.T, fresh @ nearest(weight, config).T)
    assert ours > plain + 2


def test_form_is_that_of_rounding_to_nearest() -> None:
    torch.manual_seed(0)
    weight, rows = torch.randn(8, 100), torch.randn(300, 100)
    q, scale = gptq(weight, rows.T @ rows, INT4)
    other_q, other_scale = quantize_per_group(weight, 64)
    assert (q.shape, q.dtype) == (other_q.shape, other_q.dtype)
    assert (scale.shape, scale.dtype) == (other_scale.shape, other_scale.dtype)
    assert int(q.min()) >= -8
    assert int(q.max()) <= 7


def test_close_to_the_best_of_all_roundings() -> None:
    """Four channels of one output: every choice of integers near the weight is tried."""
    torch.manual_seed(1)
    config = QuantConfig(weight_bits=8, act_bits=8)
    ours, best, plain = 0.0, 0.0, 0.0
    for _ in range(20):
        rows = correlated_rows(64, 4, rank=2)
        # The scale is the last channel's, so that steps are coarse for the others.
        weight = torch.cat([torch.randn(3) * 0.02, torch.tensor([1.27])])[None]
        q, scale = gptq(weight, rows.T @ rows, config, damping=1e-4)

        def error(
            integers: Tensor, scale: Tensor = scale, rows: Tensor = rows, w: Tensor = weight
        ) -> float:
            return float((rows @ (integers.float() * scale[0] - w[0])).square().sum())

        floor = (weight[0] / scale[0]).floor()
        tried = [
            error(floor + torch.tensor(step, dtype=torch.float32))
            for step in itertools.product((-1, 0, 1, 2), repeat=4)
        ]
        best += min(tried)
        ours += error(q[0])
        plain += error(quantize_per_channel(weight)[0][0])
    assert best <= ours
    assert ours - best < 0.6 * (plain - best), "it is greedy: each channel is rounded once"


def test_channels_that_never_fire() -> None:
    torch.manual_seed(0)
    weight, rows = torch.randn(8, 64), torch.randn(200, 64)
    rows[:, 10:20] = 0
    q, scale = gptq(weight, rows.T @ rows, INT4)
    found = dense(q, scale, INT4)
    assert found.isfinite().all()
    assert sqnr_db(weight[:, 10:20], found[:, 10:20]) > 15, "they are rounded all the same"


def test_fewer_rows_than_channels() -> None:
    torch.manual_seed(0)
    weight, rows = torch.randn(8, 256), torch.randn(20, 256)
    q, scale = gptq(weight, rows.T @ rows, INT4)
    assert sqnr_db(rows @ weight.T, rows @ dense(q, scale, INT4).T) > 25


def test_a_hessian_of_zeros_rounds_to_nearest() -> None:
    weight = torch.randn(4, 64)
    q, scale = gptq(weight, torch.zeros(64, 64), INT4)
    assert torch.equal(dense(q, scale, INT4), nearest(weight, INT4))
