"""Against the weight that the stored integers stand for, in fp32."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from quant.config import QuantConfig
from quant.kernels.linear_w4a16 import GroupedWeight, linear_w4a16, repack
from quant.kernels.tiles import Tile
from quant.layers import QuantLinear

TILE = Tile(m=16, n=32, k=0, warps=4, stages=2)


def stored(N: int, K: int, group_size: int, *, bias: bool = False) -> QuantLinear:
    config = QuantConfig(weight_bits=4, act_bits=16, group_size=group_size)
    return QuantLinear.from_weight(torch.randn(N, K), torch.randn(N) if bias else None, config)


def grouped(layer: QuantLinear) -> GroupedWeight:
    return repack(
        layer.qweight,
        layer.scale,
        in_features=layer.in_features,
        group_size=layer.config.group_size,
    )


def expected(layer: QuantLinear, x: Tensor) -> Tensor:
    out = x.float() @ layer.dequantize(torch.float32).T
    return out if layer.bias is None else out + layer.bias.float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("M", "N", "K", "group_size"),
    [(1, 32, 128, 64), (3, 40, 200, 64), (17, 33, 131, 128), (5, 8, 64, 32)],
)
def test_product(
    interpreted: Callable[..., Any], M: int, N: int, K: int, group_size: int, dtype: torch.dtype
) -> None:
    layer = stored(N, K, group_size, bias=M > 1)
    x = torch.randn(M, K).to(dtype)
    x[0, -1] = 100  # the odd end of K counts
    out = interpreted(
        linear_w4a16, x, grouped(layer), bias=layer.bias, out_dtype=torch.float32, tile=TILE
    )
    # Inputs and integers are exact; what remains is the order of fp32 sums.
    torch.testing.assert_close(out, expected(layer, x), rtol=1e-5, atol=1e-4)


def test_every_nibble(interpreted: Callable[..., Any]) -> None:
    """-8 to 7 in each half of a byte, exactly, through the table's own tile."""
    values = torch.arange(64) % 16 - 8
    q = torch.stack([values, values.flip(0)]).to(torch.int8)
    config = QuantConfig(weight_bits=4, act_bits=16, group_size=64)
    layer = QuantLinear.from_quantized(q, torch.ones(2, 1).bfloat16(), None, config)
    out = interpreted(linear_w4a16, torch.eye(64).bfloat16(), grouped(layer))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out.T, q.bfloat16())


def test_rows_of_a_wider_tensor(interpreted: Callable[..., Any]) -> None:
    layer = stored(16, 64, 64)
    x = torch.randn(6, 96).bfloat16()[::2, 16:80]
    out = interpreted(linear_w4a16, x, grouped(layer), out_dtype=torch.float32)
    torch.testing.assert_close(out, expected(layer, x), rtol=1e-5, atol=1e-4)


def test_wrong_input() -> None:
    weight = grouped(stored(6, 128, 64))
    x = torch.zeros(2, 128).bfloat16()
    wrong: list[tuple[Tensor, GroupedWeight, dict[str, Any], str]] = [
        (x.float(), weight, {}, "x is torch.float32"),
        (x[:, :64], weight, {}, r"x has shape \(2, 64\), not \(any, 128\)"),
        (x, dataclasses.replace(weight, group_size=128), {}, "which do not hold 128 channels"),
        (x, dataclasses.replace(weight, scale=weight.scale.float()), {}, "scale is torch.float32"),
        (x, weight, {"bias": torch.zeros(5)}, "bias has shape"),
        (x, weight, {"out_dtype": torch.int32}, "out_dtype is torch.int32"),
        (x, weight, {}, "CUDA device, not on cpu"),
    ]
    for x_, weight_, rest, message in wrong:
        with pytest.raises(ValueError, match=message):
            linear_w4a16(x_, weight_, **rest)


def test_repack_refuses_what_does_not_fit() -> None:
    layer = stored(6, 128, 64)
    with pytest.raises(ValueError, match="group size is 48"):
        repack(layer.qweight, layer.scale, in_features=128, group_size=48)
    with pytest.raises(ValueError, match="scale has shape"):
        repack(layer.qweight, layer.scale, in_features=128, group_size=128)
    with pytest.raises(ValueError, match="qweight has shape"):
        repack(layer.qweight, layer.scale, in_features=200, group_size=64)
