"""Against torch's convolution in fp32, borders and ends of strips included."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from quant.kernels import reference
from quant.kernels.depthwise3x3_glu import depthwise3x3_glu, repack
from sana_cli.models.layers import DepthwiseGLU

# The interpreter cuts bits off where a device rounds to bf16.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def operands(B: int, H: int, W: int, C: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    weight = repack(torch.randn(2 * C, 1, 3, 3))
    return torch.randn(B, H, W, 2 * C).to(dtype), weight.to(dtype), torch.randn(2 * C).to(dtype)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 1, 1, 1), torch.float32),
        ((2, 1, 17, 3), torch.float32),  # two blocks of columns
        ((1, 2, 2, 33), torch.float32),  # two blocks of channels
        ((1, 2, 3, 5), torch.bfloat16),
        ((1, 2, 3, 5), torch.float16),
    ],
    ids=str,
)
def test_against_the_reference(
    interpreted: Callable[..., Any],
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    activation: str | None,
) -> None:
    args = operands(*shape, dtype)
    out = interpreted(depthwise3x3_glu, *args, activation=activation)
    expected = reference.depthwise3x3_glu(*args, activation=activation)
    assert out.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("strip", [1, 2, 8])
def test_strips(interpreted: Callable[..., Any], strip: int) -> None:
    args = operands(2, 3, 3, 4, torch.float32)
    out = interpreted(depthwise3x3_glu, *args, strip=strip)
    torch.testing.assert_close(out, reference.depthwise3x3_glu(*args), rtol=2e-6, atol=2e-6)


def test_strips_are_shorter_where_programs_are_few() -> None:
    """Sana-0.6B at 1024 and 512 pixels, guided, and one picture of 256."""
    pytest.importorskip("triton")
    from quant.kernels.depthwise3x3_glu.kernel import strip_rows

    sizes = ((2, 32, 32, 2880), (2, 16, 16, 2880), (1, 8, 8, 2880))
    assert [strip_rows(*size) for size in sizes] == [8, 4, 2]


def test_it_is_the_models(interpreted: Callable[..., Any]) -> None:
    """Between the two 1x1 convolutions of the Mix-FFN."""
    module = DepthwiseGLU(8, 6).requires_grad_(False)
    x = torch.randn(2, 4, 5, 8)
    conv = module.conv_depth
    assert conv.bias is not None
    hidden = interpreted(
        depthwise3x3_glu, module.conv_inverted(x), repack(conv.weight), conv.bias,
        activation="silu",
    )  # fmt: skip
    torch.testing.assert_close(module.conv_point(hidden), module(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 4, 8)}, "x has shape"),
        ({"x": torch.zeros(2, 4, 4, 7)}, "7 channels, which are not values and gates"),
        ({"x": torch.zeros(2, 8, 4, 8)[:, ::2]}, "is not contiguous"),
        ({"weight": torch.zeros(8, 1, 3, 3)}, "weight has shape"),
        ({"bias": torch.zeros(4)}, "bias has shape"),
        ({"activation": "relu"}, "activation is 'relu'"),
        ({}, "CUDA device, not on cpu"),
    ],
)
def test_wrong_input(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"x": torch.zeros(2, 4, 4, 8), "weight": torch.zeros(9, 8)}
    arguments["bias"] = torch.zeros(8)
    with pytest.raises(ValueError, match=message):
        depthwise3x3_glu(**(arguments | change))
