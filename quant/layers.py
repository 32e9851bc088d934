"""Quantized linear and convolution layers: plain buffers, and the arithmetic of `primitives.py`.

A layer is built empty (on any device, meta included), then filled from a float layer or from a file.
Its state dict is what a checkpoint stores: `qweight`, `scale` and, where the layer has them, `bias`, `smooth`
and `act_scale`.
"""

# M rows (tokens), K input channels, N output channels, G groups of input channels

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant.config import QuantConfig
from quant.primitives import (
    INT8_MAX,
    dequantize_per_channel,
    linear_f8a8,
    linear_w8a8,
    quantize_per_channel,
)
from quant.schemes import examples_for
from quant.storage import empty_tensors, storage_of


class AcceleratedLayer(nn.Module):
    """A layer whose `reference` a kernel of `quant.backends` may replace."""

    qweight: Tensor
    scale: Tensor
    config: QuantConfig

    def __init__(self) -> None:
        super().__init__()
        self._kernel: Callable[[Tensor, Any, Any], Tensor] | None = None
        self._packed: Any = None

    def attach(self, run: Callable[[Tensor, Any, Any], Tensor], packed: Any, *, free: bool) -> None:
        """Run with a kernel from now on. `free` drops the stored integers, which `packed` replaces.

        A freed layer still runs, but can be neither saved nor dequantized.
        """
        self._kernel, self._packed = run, packed
        if free:
            self.qweight = torch.empty_like(self.qweight, device="meta")

    @property
    def holds_weight(self) -> bool:
        """True while the stored integers are here: a kernel may have packed and dropped them."""
        return self._kernel is None or not self.qweight.is_meta

    def packed_for(self, run: Callable[[Tensor, Any, Any], Tensor]) -> Any:
        """Return what a kernel's `pack` made of this layer where that kernel is attached, else None."""
        return self._packed if self._kernel is run else None

    def forward(self, x: Tensor) -> Tensor:
        if self._kernel is None:
            return self.reference(x)
        return self._kernel(x, self._packed, self)

    def reference(self, x: Tensor) -> Tensor:
        """The arithmetic that defines the layer."""
        raise NotImplementedError


class QuantLinear(AcceleratedLayer):
    """x (..., K) -> (..., N), also for 1x1 convolutions of channels-last tokens.

    With `config.smooth` the inputs are first multiplied by `smooth` (K,), and the stored weight is the
    float one divided by it: outliers of a few channels move where they hurt less (arXiv 2211.10438).
    """

    qweight: Tensor
    scale: Tensor
    smooth: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool, config: QuantConfig
    ) -> None:
        super().__init__()
        if config.static_act:
            raise ValueError("linear layers find the scale of each token while running")
        self.in_features, self.out_features, self.config = in_features, out_features, config
        qweight, scale = empty_tensors(
            config.scheme, (out_features, in_features), config.group_size
        )
        self.register_buffer("qweight", qweight)
        self.register_buffer("scale", scale)
        smooth = torch.empty(in_features, dtype=torch.float32) if config.smooth else None
        self.register_buffer("smooth", smooth)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None

    @classmethod
    def from_weight(
        cls,
        weight: Tensor,
        bias: Tensor | None,
        config: QuantConfig,
        *,
        smooth_K: Tensor | None = None,
    ) -> Self:
        """Quantize a float weight (N, K), or (N, K, 1, 1) of a 1x1 convolution, to nearest."""
        weight_NK = weight.detach().flatten(1)
        if smooth_K is not None:
            weight_NK = weight_NK.float() / smooth_K
        q_NK, scale = storage_of(config.scheme).quantize(weight_NK, config.group_size)
        return cls.from_quantized(q_NK, scale, bias, config, smooth_K=smooth_K)

    @classmethod
    def from_quantized(
        cls,
        q_NK: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        config: QuantConfig,
        *,
        smooth_K: Tensor | None = None,
    ) -> Self:
        """A layer from integers (N, K) int8 and scales that were found elsewhere, as by GPTQ."""
        N, K = q_NK.shape
        with torch.device("meta"):
            layer = cls(K, N, bias=bias is not None, config=config)
        state = {"qweight": storage_of(config.scheme).pack(q_NK), "scale": scale}
        if bias is not None:
            state["bias"] = bias.detach()
        if smooth_K is not None:
            state["smooth"] = smooth_K
        layer.load_state_dict(state, assign=True)
        return layer

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the float weight (N, K) of this layer, still divided by `smooth`."""
        return storage_of(self.config.scheme).dequantize(
            self.qweight, self.scale, self.in_features, self.config.group_size, dtype
        )

    def reference(self, x: Tensor) -> Tensor:
        if self.config.scheme.inputs == "int8":
            return linear_w8a8(x, self.qweight, self.scale, self.bias, smooth_K=self.smooth)
        if self.config.scheme.inputs == "float8":
            return linear_f8a8(x, self.qweight, self.scale, self.bias, smooth_K=self.smooth)
        if self.smooth is not None:
            x = x * self.smooth.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.dequantize(x.dtype), bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.config}"


class QuantConv2d(AcceleratedLayer):
    """A k x k convolution (B, K, H, W) -> (B, N, H', W') with 8-bit weights, one group of channels.

    With 8-bit inputs there is one scale per picture, found while running, or one for all, stored.
    """

    qweight: Tensor
    scale: Tensor
    act_scale: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        stride: tuple[int, int],
        padding: tuple[int, int],
        bias: bool,
        config: QuantConfig,
    ) -> None:
        super().__init__()
        if "conv" not in config.scheme.layers:
            known = " or ".join(examples_for("conv"))
            raise ValueError(f"{config} is not for {kernel_size} convolutions; use {known}")
        if config.smooth:
            raise ValueError("convolutions have no factor per input channel")
        self.stride, self.padding, self.config = stride, padding, config
        shape = (out_channels, in_channels, *kernel_size)
        qweight, scale = empty_tensors(config.scheme, shape, config.group_size)
        self.register_buffer("qweight", qweight)
        self.register_buffer("scale", scale)
        act_scale = torch.empty((), dtype=torch.float32) if config.static_act else None
        self.register_buffer("act_scale", act_scale)
        self.bias = nn.Parameter(torch.empty(out_channels), requires_grad=False) if bias else None

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d, config: QuantConfig, *, act_scale: Tensor | None = None
    ) -> Self:
        """Quantize a float convolution. ValueError for what has no place here."""
        with torch.device("meta"):
            layer = cls.like(conv, config)
        storage = storage_of(config.scheme)
        q, scale = storage.quantize(conv.weight.detach().flatten(1), config.group_size)
        state = {"qweight": storage.pack(q).view(conv.weight.shape), "scale": scale}
        if conv.bias is not None:
            state["bias"] = conv.bias.detach()
        if act_scale is not None:
            state["act_scale"] = act_scale
        layer.load_state_dict(state, assign=True)
        return layer

    @classmethod
    def like(cls, conv: nn.Conv2d, config: QuantConfig) -> Self:
        """An empty layer with the geometry of `conv`."""
        if conv.groups != 1 or conv.dilation != (1, 1) or isinstance(conv.padding, str):
            raise ValueError("grouped, dilated or string-padded convolutions are not quantized")
        return cls(
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            stride=(conv.stride[0], conv.stride[1]),
            padding=(int(conv.padding[0]), int(conv.padding[1])),
            bias=conv.bias is not None,
            config=config,
        )

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the float weight (N, K, k, k) of this layer."""
        flat = self.qweight.flatten(1)
        storage, group_size = storage_of(self.config.scheme), self.config.group_size
        weight = storage.dequantize(flat, self.scale, flat.shape[1], group_size, dtype)
        return weight.view(self.qweight.shape)

    def reference(self, x: Tensor) -> Tensor:
        if self.config.scheme.weight_only:
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return F.conv2d(x, self.dequantize(x.dtype), bias, self.stride, self.padding)
        # Integers in fp32: sums past 2^24 round in their last bit, far below the scheme's own steps.
        if self.act_scale is None:
            q, scale_B = quantize_per_channel(x.flatten(1))
            q_x = q.view(x.shape).float().contiguous(memory_format=torch.channels_last)
        else:
            scale_B = self.act_scale.expand(x.shape[0])
            q_x = (x.float() / self.act_scale).round_().clamp_(-INT8_MAX, INT8_MAX)
        out = F.conv2d(q_x, self.qweight.float(), None, self.stride, self.padding)
        out = out * (scale_B[:, None] * self.scale)[:, :, None, None]
        if self.bias is not None:
            out = out + self.bias.float()[:, None, None]
        return out.to(x.dtype)

    def extra_repr(self) -> str:
        N, K, *kernel = self.qweight.shape
        return f"{K}, {N}, kernel_size={tuple(kernel)}, {self.config}"


class QuantEmbedding(nn.Module):
    """Token ids (..., L) -> fp32 rows (..., L, C), stored in 8 bits with one scale a row; only those asked for are expanded."""

    qweight: Tensor
    scale: Tensor

    def __init__(self, rows: int, channels: int, *, multiplier: float) -> None:
        super().__init__()
        self.multiplier = multiplier  # Gemma multiplies embeddings by the root of their width
        self.register_buffer("qweight", torch.empty(rows, channels, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(rows, dtype=torch.float32))

    @classmethod
    def from_weight(cls, weight: Tensor, *, multiplier: float) -> Self:
        """Quantize a float table (rows, channels)."""
        with torch.device("meta"):
            layer = cls(weight.shape[0], weight.shape[1], multiplier=multiplier)
        q, scale = torch.empty(weight.shape, dtype=torch.int8), torch.empty(weight.shape[0])
        # In blocks: Gemma's table would take 2.4 GB as fp32.
        for start in range(0, weight.shape[0], 8192):
            rows = slice(start, start + 8192)
            q[rows], scale[rows] = quantize_per_channel(weight.detach()[rows])
        layer.load_state_dict({"qweight": q, "scale": scale}, assign=True)
        return layer

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the float table (rows, channels) of this layer, without the multiplier."""
        return dequantize_per_channel(self.qweight, self.scale, dtype)

    def forward(self, ids: Tensor) -> Tensor:
        flat = ids.flatten().to(self.qweight.device)
        rows = dequantize_per_channel(self.qweight[flat], self.scale[flat], torch.float32)
        return (rows * self.multiplier).to(ids.device).unflatten(0, ids.shape)
