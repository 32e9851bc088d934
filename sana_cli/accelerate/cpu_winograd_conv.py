"""Float 3x3 convolutions by Winograd's algorithm, where that is the faster way. For CPUs, for inference only.

Whether it is depends on the processor and the libraries inside torch: it is measured once a machine (`sana_cli.loading.load`).
"""

from collections.abc import Iterator
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant.backends import cpu_winograd
from quant.backends.cpu_winograd import pays, suits, winograd_conv
from quant.backends.timing import best_seconds
from quant.layers import QuantConv2d
from sana_cli.models.dc_ae import UpBlock, shortcut_phase, upsampled_conv

_PROBE = (128, 64)  # channels, positions a side
_WORTH = 1.2  # times as fast, or a noisy machine would change its mind
_NEAR = 1e-3  # of sums whose deviation is 1


class WinogradConv2d(nn.Module):
    """(B, K, H, W) -> (B, N, H, W), as the convolution that it was made from."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias, self.padding = conv.weight, conv.bias, conv.padding

    def forward(self, x: Tensor) -> Tensor:
        if pays(x, len(self.weight)):
            return winograd_conv(x, self.weight, self.bias)
        return F.conv2d(x, self.weight, self.bias, padding=1)


def upsampled(x: Tensor, weight: Tensor, bias: Tensor | None, *, repeats: int = 0) -> Tensor:
    """Convolve as `dc_ae.upsampled_conv`, in 9 products for its 16 where the map is large enough."""
    if not (pays(x, len(weight)) and suits(weight)):
        return upsampled_conv(x, weight, bias, repeats=repeats)
    out = cpu_winograd.upsampled_conv(x, weight, bias)
    for phase in range(4 if repeats else 0):
        i, j = divmod(phase, 2)
        out[:, :, i::2, j::2] += shortcut_phase(x, repeats, phase)
    return out


def replaceable(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield parent and name of every convolution of an fp32 model that Winograd's algorithm can run."""
    floats = (parameter for parameter in model.parameters() if parameter.is_floating_point())
    if any(parameter.dtype != torch.float32 for parameter in floats):
        return
    for parent in model.modules():
        if isinstance(parent, UpBlock) and parent.interpolate:
            continue  # asks for its weight
        for name, layer in parent.named_children():
            if _is_plain(layer) and suits(
                layer.weight if isinstance(layer, nn.Conv2d) else layer.qweight
            ):
                yield parent, name


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Conv2d | QuantConv2d]:
    """Return whether a convolution keeps the size of a map, and its inputs as they are."""
    if isinstance(layer, QuantConv2d):
        plain = layer.config.scheme.weight_only
    elif type(layer) is nn.Conv2d:
        plain = layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    else:
        return False
    return plain and layer.stride == (1, 1) and layer.padding == (1, 1)


def _run_quantized(x: Tensor, packed: None, layer: QuantConv2d) -> Tensor:
    if pays(x, len(layer.qweight)):
        return winograd_conv(x, layer.dequantize(torch.float32), layer.bias)
    return layer.reference(x)


def use_winograd_(model: nn.Module) -> int:
    """Give a model's convolutions Winograd's algorithm, those with 8-bit weights too; returns how many."""
    found = list(replaceable(model))
    for parent, name in found:
        layer = parent.get_submodule(name)
        if isinstance(layer, QuantConv2d):
            layer.attach(_run_quantized, None, free=False)
        else:
            assert isinstance(layer, nn.Conv2d)
            setattr(parent, name, WinogradConv2d(layer))
    for block in model.modules():
        if isinstance(block, UpBlock):
            block.upsampled = upsampled
    return len(found)


def is_worth_it() -> bool:
    """Return whether Winograd's algorithm is right and faster here, by a short measurement."""
    channels, side = _PROBE
    generator = torch.Generator().manual_seed(0)
    weight = torch.empty(channels, channels, 3, 3)
    weight.normal_(std=(9 * channels) ** -0.5, generator=generator)
    x = torch.randn(1, channels, side, side, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        direct, ours = F.conv2d(x, weight, padding=1), winograd_conv(x, weight, None)
        if not torch.allclose(ours, direct, rtol=0, atol=_NEAR):
            return False
        plain, winograd = best_seconds(
            [lambda: F.conv2d(x, weight, padding=1), lambda: winograd_conv(x, weight, None)], x.device
        )  # fmt: skip
    return plain > _WORTH * winograd
