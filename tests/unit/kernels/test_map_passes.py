"""Passes over maps of the decoder: quantizing by picture, bias and activation, joining the phases of an up-sampling."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from quant.kernels import reference
from quant.kernels.bias_activation import bias_activation
from quant.kernels.join_phases import join_phases
from quant.kernels.quantize_map import quantize_map
from sana_cli.accelerate.cuda.convolution import folded_weights

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("given", ["nothing", "scale", "largest"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 17, 9, 40), (3, 5)], ids=str)
def test_quantize_map(
    interpreted: Callable[..., Any], shape: tuple[int, ...], given: str, dtype: torch.dtype
) -> None:
    """Bit-equal, for 4096 values a program and less."""
    x = torch.randn(shape).to(dtype)
    known: dict[str, dict[str, Tensor]] = {
        "nothing": {}, "scale": {"scale": torch.tensor(0.013)},
        "largest": {"largest": x.flatten(1).float().abs().amax(dim=1)},
    }  # fmt: skip
    q, scale = interpreted(quantize_map, x, **known[given])
    expected = reference.quantize_map(x, **known[given])
    assert torch.equal(q, expected[0])
    assert torch.equal(scale, expected[1])


def test_a_picture_of_zeros_and_one_with_nan(interpreted: Callable[..., Any]) -> None:
    x = torch.zeros(2, 8)
    x[1, 3] = torch.nan
    q, scale = interpreted(quantize_map, x)
    assert not q[0].any()
    assert scale[0] == 0
    assert scale[1].isnan()


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("activation", [None, "silu", "relu"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_bias_activation(
    interpreted: Callable[..., Any], with_bias: bool, activation: Any, dtype: torch.dtype
) -> None:
    x, bias = torch.randn(131, 40).to(dtype), torch.randn(40).to(dtype) if with_bias else None
    expected = reference.bias_activation(x.clone(), bias, activation=activation)
    out = interpreted(bias_activation, x, bias, activation=activation)
    torch.testing.assert_close(out, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [(24, 12), (16, 16), (4, 8), (0, 5)], ids=str)
def test_join_phases(
    interpreted: Callable[..., Any], channels: tuple[int, int], dtype: torch.dtype
) -> None:
    K, N = channels
    phases = torch.randn(4, 2, 6, 4, N).to(dtype).unbind()
    bias = torch.randn(N).to(dtype)
    shortcut = torch.randn(2, 5, 3, K).to(dtype) if K else None
    out = interpreted(join_phases, phases, bias, shortcut=shortcut)
    expected = reference.join_phases(phases, bias, shortcut=shortcut)
    torch.testing.assert_close(out, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_four_phases_are_the_enlarged_convolution() -> None:
    x, weight, bias = torch.randn(2, 6, 5, 4), torch.randn(3, 6, 3, 3), torch.randn(3)
    phases = [
        F.conv2d(x, kernel, padding=1).permute(0, 2, 3, 1)
        for kernel in folded_weights(weight, torch.float32)
    ]
    expected = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    out = reference.join_phases(phases, bias).permute(0, 3, 1, 2)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: quantize_map(torch.ones(2, 4).T), "x has stride|is not contiguous"),
        (lambda: quantize_map(torch.ones(2, 4), scale=torch.ones(2)), "scale has shape"),
        (lambda: quantize_map(torch.ones(2, 4), largest=torch.ones(4)), "largest has shape"),
        (lambda: quantize_map(torch.ones(2, 4)), "CUDA device, not on cpu"),
        (lambda: bias_activation(torch.ones(2, 4), torch.ones(3)), "bias has shape"),
        (lambda: bias_activation(torch.ones(2, 4), None, activation="gelu"), "'gelu'"),  # type: ignore[arg-type]
        (lambda: bias_activation(torch.ones(2, 4), None), "CUDA device, not on cpu"),
        (lambda: join_phases([torch.ones(1, 3, 3, 4)] * 3, None), "there are 3 phases"),
        (lambda: join_phases([torch.ones(1, 3, 3, 4)] * 4, torch.ones(3)), "bias has shape"),
        (
            lambda: join_phases([torch.ones(1, 3, 3, 4)] * 4, None, shortcut=torch.ones(1, 2, 2, 3)),
            "3 channels of the shortcut do not divide 16",
        ),
        (lambda: join_phases([torch.ones(1, 3, 3, 4)] * 4, None), "CUDA device, not on cpu"),
    ],
)  # fmt: skip
def test_wrong_input(run: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run()
