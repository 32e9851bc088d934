"""Convolutions of DC-AE's decoder as the engine runs them: with what follows them in the same launch, or in one more.

Float products are cuDNN's, which adds no bias and applies no activation itself. w8a8 ones are ours: one launch to find a map's
largest magnitude, unless whoever wrote the map knows it, one to quantize, one for all the rest.
"""

# B batch, H x W positions, K input channels, N output channels

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant.backends.cuda import packed_conv
from quant.backends.timing import fastest
from quant.backends.verdicts import remembered
from quant.layers import QuantConv2d
from sana_cli.accelerate.cuda.kernels import Kernels
from sana_cli.models.dc_ae import UpBlock, activate

Act = Callable[..., Tensor]
_NAMES: dict[Act, Literal["silu", "relu"]] = {F.silu: "silu", F.relu: "relu"}
_NOTE = "sana_largest"
_PROBE_CHANNELS, _PROBE_SIDES = (
    128,
    (16, 64, 256),
)  # of maps for which both ways of up-sampling are timed


@dataclass(frozen=True, slots=True)
class Map:
    """Values (B, H, W, K), contiguous, and their largest magnitudes (B,) fp32 where they are known."""

    values: Tensor
    largest: Tensor | None = None


def last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), a view."""
    return x.permute(0, 2, 3, 1)


def first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), a view."""
    return x.permute(0, 3, 1, 2)


def marked(values: Tensor, largest: Tensor | None) -> Tensor:
    """(B, H, W, C) as the next block takes it, with its magnitudes as a note: blocks pass nothing else on.

    A crop or any other view is a new tensor, without the note.
    """
    x = first(values)
    if largest is not None:
        setattr(x, _NOTE, largest)
    return x


def measured(x: Tensor) -> Map:
    """Input of a block, (B, C, H, W), with the magnitudes that the one before noted."""
    return Map(last(x).contiguous(), getattr(x, _NOTE, None))


class Convolution:
    """A 3x3 convolution of maps, with an activation. This one runs the layer and then the activation.

    Called with `for_int8` by whoever passes the result on to a convolution of integers.
    """

    def __init__(self, layer: nn.Module, kernels: Kernels) -> None:
        self.layer, self.kernels = layer, kernels

    def __call__(self, x: Map, act: Act | None = None, *, for_int8: bool = False) -> Map:
        out = self.layer(first(x.values))
        return Map(last(out if act is None else activate(act, out)).contiguous())

    @property
    def is_observed(self) -> bool:
        """True while somebody looks for the scale of this layer's inputs, and must be shown them."""
        return bool(self.layer._forward_pre_hooks or self.layer._forward_hooks)


class FloatConvolution(Convolution):
    """cuDNN's product, then the bias and the activation in one pass over the map."""

    def __call__(self, x: Map, act: Act | None = None, *, for_int8: bool = False) -> Map:
        if self.is_observed or (act is not None and act not in _NAMES):
            return super().__call__(x, act)
        weight, bias = _weight(self.layer, x.values.dtype), _bias(self.layer)
        out = last(F.conv2d(first(x.values), weight, padding=1)).contiguous()
        if bias is not None or act is not None:
            name = None if act is None else _NAMES[act]
            self.kernels.bias_activation(out.view(-1, out.shape[-1]), bias, activation=name)
        return Map(out)


class Int8Convolution(Convolution):
    """Our product, with scales, bias and SiLU; it finds its result's largest magnitude, if asked."""

    def __init__(self, layer: QuantConv2d, weight: Tensor, kernels: Kernels) -> None:
        super().__init__(layer, kernels)
        self.quantized_layer = layer
        self.weight = weight  # (N, 3, 3, K)

    def __call__(self, x: Map, act: Act | None = None, *, for_int8: bool = False) -> Map:
        if self.is_observed or act not in (None, F.silu):
            return super().__call__(x, act)
        largest = None
        if for_int8:
            largest = x.values.new_zeros(len(x.values), dtype=torch.float32)
        out = self.kernels.conv3x3_w8a8(
            *self.quantized(x), self.weight, self.layer.scale, bias=self.layer.bias,
            activation=None if act is None else "silu", out_largest=largest,
            out_dtype=x.values.dtype,
        )  # fmt: skip
        return Map(out, largest)

    def quantized(self, x: Map) -> tuple[Tensor, Tensor]:
        """int8 values and scales, by the stored scale where there is one: at this moment, since tiles may share one."""
        scale = self.quantized_layer.act_scale
        known = x.largest if scale is None else None
        return self.kernels.quantize_map(x.values, scale=scale, largest=known)


def convolution(layer: nn.Module, kernels: Kernels) -> Convolution:
    """The best of these ways for a layer."""
    if _is_3x3(layer):
        packed = packed_conv(layer) if isinstance(layer, QuantConv2d) else None
        if packed is not None:
            assert isinstance(layer, QuantConv2d)
            return Int8Convolution(layer, packed, kernels)
        if type(layer) is nn.Conv2d or (
            isinstance(layer, QuantConv2d) and layer.config.scheme.weight_only
        ):
            return FloatConvolution(layer, kernels)
    return Convolution(layer, kernels)


def up_block(block: UpBlock, kernels: Kernels, *, folds: bool) -> Callable[[Tensor], Tensor] | None:
    """Its forward (B, K, H, W) -> (B, N, 2H, 2W) in few passes; None where the model's own is as good.

    `folds`: whether four convolutions of 2x2 are faster than one of 3x3 on an enlarged map.
    """
    conv = convolution(block.conv, kernels)
    repeats, layer = block.repeats, block.conv
    if not block.interpolate or type(conv) is Convolution:
        return None

    of_block = weakref.ref(block)  # a method that held its block would keep it alive

    def whole(x: Tensor) -> Tensor:
        itself = of_block()
        assert itself is not None
        return UpBlock.forward(itself, x)

    def in_int8(x: Tensor) -> Tensor:
        assert isinstance(conv, Int8Convolution)
        if conv.is_observed:
            return whole(x)
        given = measured(x)
        values = given.values
        largest = values.new_zeros(
            len(values), dtype=torch.float32
        )  # what follows may be w8a8, too
        out = kernels.conv3x3_w8a8(
            *conv.quantized(given), conv.weight, layer.scale, bias=layer.bias, upsampled=True,
            shortcut=values if repeats else None, out_largest=largest, out_dtype=x.dtype,
        )  # fmt: skip
        return marked(out, largest)

    def folded(x: Tensor) -> Tensor:
        if conv.is_observed:
            return whole(x)
        weights = folded_weights(_weight(layer, torch.float32), x.dtype)
        phases = [last(F.conv2d(x, weight, padding=1)).contiguous() for weight in weights]
        shortcut = last(x).contiguous() if repeats else None
        return first(kernels.join_phases(phases, _bias(layer), shortcut=shortcut))

    if isinstance(conv, Int8Convolution):
        return in_int8
    return folded if folds else None


def folded_weights(weight: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Kernels (N, K, 2, 2) of the four phases of a 3x3 kernel (N, K, 3, 3) fp32 on an enlarged map.

    Two of three neighbouring pixels are copies of one, so their weights add up (as in `models.dc_ae.upsampled_conv`).
    """
    # Rows of the kernel that an even and an odd row of the result read from each of two rows.
    joins = weight.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
    rows = torch.einsum("isr,nkrc->inksc", joins, weight)
    phases = torch.einsum("jtc,inksc->ijnkst", joins, rows).to(dtype).flatten(0, 1)
    return [phase.contiguous(memory_format=torch.channels_last) for phase in phases]


def folding_pays(dtype: torch.dtype, device: torch.device, *, verdicts: Path | None) -> bool:
    """Return whether four 2x2 convolutions take less time here than one 3x3 on a map of four times the size."""

    def runs_at(side: int) -> list[Callable[[], object]]:
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            values = torch.randn(shape, generator=generator).to(device, dtype)
            return values.contiguous(memory_format=torch.channels_last)

        x, narrow = random(1, _PROBE_CHANNELS, side, side), random(*[_PROBE_CHANNELS] * 2, 2, 2)
        wide, enlarged = random(*[_PROBE_CHANNELS] * 2, 3, 3), F.interpolate(x, scale_factor=2)
        return [
            lambda: [F.conv2d(x, narrow, padding=1) for _ in range(4)],
            lambda: F.conv2d(enlarged, wide, padding=1),
        ]

    def decide() -> str:
        with torch.inference_mode():
            return ("folded", "whole")[fastest(runs_at, _PROBE_SIDES, device)]

    found = remembered(
        f"up-sampling {dtype}", device, decide, verdicts=verdicts,
        is_known=lambda verdict: verdict in ("folded", "whole"),
    )  # fmt: skip
    return found == "folded"


def _is_3x3(layer: nn.Module) -> bool:
    weight = getattr(layer, "weight", None)
    weight = getattr(layer, "qweight", None) if weight is None else weight
    return (
        isinstance(weight, Tensor)
        and weight.shape[2:] == (3, 3)
        and layer.stride == layer.padding == (1, 1)
        and getattr(layer, "groups", 1) == 1
    )


def _weight(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    if isinstance(layer, QuantConv2d):
        return layer.dequantize(dtype)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.to(dtype)


def _bias(layer: nn.Module) -> Tensor | None:
    bias: Tensor | None = getattr(layer, "bias", None)
    return bias
