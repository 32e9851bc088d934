"""torch's product of 8-bit floats, which CPUs have too, against the definition."""

from typing import Any

import pytest
import torch
from torch import Tensor

from quant.kernels import reference
from quant.kernels.linear_f8a8 import linear_f8a8
from quant.primitives import FLOAT8, quantize_rows_float8


def operands(M: int = 5, K: int = 48, N: int = 32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, K, generator=generator) for n in (M, N))
    return (*quantize_rows_float8(x), *quantize_rows_float8(weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("M", [0, 1, 37])
def test_against_the_definition(M: int, with_bias: bool, dtype: torch.dtype) -> None:
    bias = torch.linspace(-1, 1, 32).to(dtype) if with_bias else None
    out = linear_f8a8(*operands(M), bias=bias, out_dtype=dtype)
    expected = reference.linear_f8a8(*operands(M), bias=bias, out_dtype=dtype)
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected, rtol=2**-7, atol=0.02)  # the product writes bf16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.ones(5, 48)}, "q is torch.float32"),
        ({"weight": torch.ones(32, 16).to(FLOAT8)}, "weight has shape"),
        ({"weight": torch.ones(30, 48).to(FLOAT8)}, "30 x 48, not multiples of 16"),
        ({"scale": torch.ones(4)}, "scale has shape"),
        ({"weight_scale": torch.ones(4)}, "weight_scale has shape"),
        ({"bias": torch.ones(4)}, "bias has shape"),
        ({"out_dtype": torch.int8}, "out_dtype is torch.int8"),
    ],
)
def test_wrong_input(change: dict[str, Any], message: str) -> None:
    names = ("q", "scale", "weight", "weight_scale")
    arguments: dict[str, Any] = dict(zip(names, operands(), strict=True))
    with pytest.raises(ValueError, match=message):
        linear_f8a8(**(arguments | change))
