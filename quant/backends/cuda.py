"""Kernels of layers on a CUDA device: the Triton ones of `quant.kernels`, and products of torch's libraries.

Measuring decides between cuBLAS' int8 product and ours. Triton is imported when one runs.
"""

# M rows (tokens), K input channels, N output channels

from typing import Any

import torch
from torch import Tensor, nn

from quant.backends.cpu import quantized_tokens
from quant.backends.kernel import Kernel
from quant.installed import is_installed
from quant.kernels import (
    conv3x3_w8a8,
    linear_f8a8,
    linear_w4a16,
    linear_w8a8,
    quantize_map,
    quantize_per_token,
)
from quant.layers import QuantConv2d, QuantLinear

_INT_MM_ROWS = 17  # at least: with fewer, cuBLAS refuses


def _linear_w8a8_run(x: Tensor, packed: None, layer: QuantLinear) -> Tensor:
    q_MK, scale_M = quantize_per_token.quantize_per_token(x.flatten(0, -2), smooth=layer.smooth)
    out = linear_w8a8.linear_w8a8(
        q_MK, scale_M, layer.qweight, layer.scale, bias=layer.bias, out_dtype=x.dtype
    )
    return out.unflatten(0, x.shape[:-1])


def _linear_f8a8_pack(layer: QuantLinear) -> None:
    if layer.qweight.shape[0] % 16 or layer.qweight.shape[1] % 16:
        raise NotImplementedError("8-bit floats are multiplied in multiples of 16")


def _linear_f8a8_run(x: Tensor, packed: None, layer: QuantLinear) -> Tensor:
    q_MK, scale_M = quantize_per_token.quantize_per_token(
        x.flatten(0, -2), smooth=layer.smooth, q_dtype=torch.float8_e4m3fn
    )
    out = linear_f8a8.linear_f8a8(
        q_MK, scale_M, layer.qweight, layer.scale, bias=layer.bias, out_dtype=x.dtype
    )
    return out.unflatten(0, x.shape[:-1])


def multiplies_float8() -> bool:
    """Return whether this device has products of 8-bit floats: from capability 8.9 on."""
    return (
        torch.version.hip is None
        and triton_runs()
        and (not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 9))
    )


def _linear_w4a16_pack(layer: QuantLinear) -> linear_w4a16.GroupedWeight:
    return linear_w4a16.repack(
        layer.qweight,
        layer.scale,
        in_features=layer.in_features,
        group_size=layer.config.group_size,
    )


def _linear_w4a16_run(x: Tensor, packed: linear_w4a16.GroupedWeight, layer: QuantLinear) -> Tensor:
    """Inputs of more than 16 bits are rounded to bf16, which tensor cores take."""
    if layer.smooth is not None:
        x = x * layer.smooth.to(x.dtype)
    half = x.flatten(0, -2)
    if half.dtype == torch.float32:
        half = half.bfloat16()
    out = linear_w4a16.linear_w4a16(half, packed, bias=layer.bias, out_dtype=x.dtype)
    return out.unflatten(0, x.shape[:-1])


def _conv_pack(layer: QuantConv2d) -> Tensor:
    if layer.stride != (1, 1) or layer.padding != (1, 1) or layer.qweight.shape[2:] != (3, 3):
        raise NotImplementedError("only 3x3 convolutions with stride and padding 1")
    return conv3x3_w8a8.repack(layer.qweight)


def _conv_run(x: Tensor, packed: Tensor, layer: QuantConv2d) -> Tensor:
    # (B, H, W, C) is how maps of the decoder lie in memory, so nothing is moved.
    q, scale = quantize_map.quantize_map(x.permute(0, 2, 3, 1).contiguous(), scale=layer.act_scale)
    out = conv3x3_w8a8.conv3x3_w8a8(
        q, scale, packed, layer.scale, bias=layer.bias, out_dtype=x.dtype
    )
    return out.permute(0, 3, 1, 2)


def packed_conv(layer: QuantConv2d) -> Tensor | None:
    """Return the weight (N, 3, 3, K) of a convolution that runs on our w8a8 kernel; None for any other."""
    return layer.packed_for(_conv_run)


def _int_mm_pack(layer: QuantLinear) -> None:
    if layer.qweight.shape[0] % 8 or layer.qweight.shape[1] % 8:
        raise NotImplementedError("cuBLAS multiplies int8 matrices of multiples of 8")


def _int_mm_run(x: Tensor, packed: None, layer: QuantLinear) -> Tensor:
    if x.is_cuda and triton_runs():
        tokens = x.flatten(0, -2)
        q_MK, scale_M = quantize_per_token.quantize_per_token(tokens, smooth=layer.smooth)
    else:
        q_MK, scale_M = quantized_tokens(x, layer)
    M = len(q_MK)
    if M < _INT_MM_ROWS:
        q_MK = nn.functional.pad(q_MK, (0, 0, 0, _INT_MM_ROWS - M))
    sums_MN = torch._int_mm(q_MK, layer.qweight.T)[:M]
    out_MN = sums_MN * scale_M[:, None] * layer.scale  # fp32
    if layer.bias is not None:
        out_MN += layer.bias.float()
    return out_MN.to(x.dtype).unflatten(0, x.shape[:-1])


def triton_runs() -> bool:
    """Return whether Triton is installed and makes good kernels for this device.

    Below capability 8.0 it fails to compile int8 products, and compiles attention without tensor
    cores.
    """
    if not is_installed("triton"):
        return False
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 0)


def _kernel(scheme: str, layer: type, run: Any, **rest: Any) -> Kernel:
    return Kernel(
        name="triton", backend="native", schemes=(scheme,), layer=layer, devices=("cuda",), run=run,
        is_available=triton_runs, **rest,
    )  # fmt: skip


KERNELS = (
    _kernel("w8a8", QuantLinear, _linear_w8a8_run),
    Kernel(
        name="scaled_mm", backend="native", schemes=("f8a8",), layer=QuantLinear, devices=("cuda",),
        pack=_linear_f8a8_pack, run=_linear_f8a8_run, is_available=multiplies_float8,
    ),
    _kernel(
        "w4a16", QuantLinear, _linear_w4a16_run, pack=_linear_w4a16_pack, frees_weight=True,
        note="products of 16-bit inputs",
    ),
    _kernel("w8a8", QuantConv2d, _conv_run, pack=_conv_pack, frees_weight=True),
    Kernel(
        name="int_mm", backend="native", schemes=("w8a8",), layer=QuantLinear, devices=("cuda",),
        pack=_int_mm_pack, run=_int_mm_run,
    ),
)  # fmt: skip
