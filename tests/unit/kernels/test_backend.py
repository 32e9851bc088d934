"""The kernels as layers run them, against the layers' reference."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from quant.backends import cuda
from quant.config import QuantConfig
from quant.layers import AcceleratedLayer, QuantConv2d, QuantLinear


def run(layer: AcceleratedLayer, x: torch.Tensor) -> torch.Tensor:
    """In the interpreter's process: the first kernel of the layer's scheme."""
    scheme = layer.config.scheme.name
    kernel = next(k for k in cuda.KERNELS if k.layer is type(layer) and scheme in k.schemes)
    return kernel.run(x, kernel.pack(layer), layer)


def call(interpreted: Callable[..., Any], layer: AcceleratedLayer, x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = interpreted(run, layer, x)
    return result


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(
    "config", [QuantConfig(act_bits=8), QuantConfig(weight_bits=4, group_size=64)]
)
def test_linear(interpreted: Callable[..., Any], config: QuantConfig, smooth: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(48, 96, generator=generator), torch.randn(48, generator=generator)
    factors = torch.rand(96, generator=generator) + 0.5 if smooth else None
    layer = QuantLinear.from_weight(weight, bias, replace(config, smooth=smooth), smooth_K=factors)
    x = torch.randn(2, 9, 96, generator=generator)
    expected = layer.reference(x)
    out = call(interpreted, layer, x)
    assert out.shape == expected.shape
    assert out.dtype == expected.dtype
    assert (out - expected).norm() < (1e-5 if config.act_bits == 8 else 0.01) * expected.norm()


@pytest.mark.parametrize("static", [False, True])
def test_convolution(interpreted: Callable[..., Any], static: bool) -> None:
    conv = nn.Conv2d(24, 20, 3, padding=1)
    x = torch.randn(2, 24, 6, 5, generator=torch.Generator().manual_seed(0))
    scale = (x.abs().max() / 127).clone() if static else None
    config = QuantConfig(act_bits=8, static_act=static)
    layer = QuantConv2d.from_conv(conv, config, act_scale=scale)
    expected = layer.reference(x)
    out = call(interpreted, layer, x)
    assert (out - expected).norm() < 1e-5 * expected.norm()
