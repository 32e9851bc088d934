"""Kernels for CPUs: 8-bit products by the libraries inside torch; 4-bit weights become floats a few channels at a time.

Without VNNI instructions the fast u8 x s8 products add two 16-bit terms with saturation, which spoils sums of large
values. Each 8-bit product is therefore tried with integers that saturate; where it fails, weights get 7 bits (-63..63),
for which no sum of two products leaves 16 bits. Weights, because a channel of theirs has fewer outliers than inputs have.
"""

# M rows (tokens), K input channels, N output channels, G groups of input channels

import os
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from quant.backends.kernel import Kernel
from quant.layers import QuantConv2d, QuantLinear
from quant.native import rows as native
from quant.primitives import INT8_MAX, finish_product

INT7_MAX = 63  # 255 * 63 * 2 fits 16 bits
_OFFSET = 128  # of inputs, which the instructions want unsigned
# Elements that a pass over memory takes at once: what one step writes, the next finds in the cores' caches.
_BLOCK = 2**19
_EXPANDED = 2**21  # 4-bit weights that are floats at once


def _blocks(rows: int, width: int, size: int = _BLOCK) -> Iterator[slice]:
    """Slices of rows, of about `size` elements each."""
    step = max(size // width, 1)
    return (slice(i, min(i + step, rows)) for i in range(0, rows, step))


def _in_fp32(matrix: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Each of the `_blocks` of a matrix: its rows, their values in fp32, and memory for what is made of them.

    The memory is the same for all: new one would be cleared page by page, which takes longer than the arithmetic.
    """
    buffer: Tensor | None = None
    for rows in _blocks(*matrix.shape):
        part = matrix[rows]
        buffer = torch.empty_like(part, dtype=torch.float32) if buffer is None else buffer
        out = buffer[: len(part)]
        yield rows, part if part.dtype == torch.float32 else out.copy_(part), out


def quantize_tokens(
    x_MK: Tensor, smooth_K: Tensor | None = None, *, offset: int = 0
) -> tuple[Tensor, Tensor]:
    """Times `smooth_K`, then as `quantize_per_token`, to the bit, without a tensor of magnitudes.

    With an `offset` the integers may come as uint8 that have it.
    """
    if native.runs(x_MK):
        return native.quantize_tokens(x_MK, smooth_K, offset=offset)
    q_MK = torch.empty_like(x_MK, dtype=torch.int8)
    scale_M = x_MK.new_empty(len(x_MK), dtype=torch.float32)
    for rows, x, out in _in_fp32(x_MK):
        values = x if smooth_K is None else torch.mul(x, smooth_K, out=out)
        scale = scale_M[rows]
        torch.maximum(values.amax(dim=1), values.amin(dim=1).neg_(), out=scale).div_(INT8_MAX)
        torch.div(values, torch.where(scale > 0, scale, 1.0)[:, None], out=out)
        q_MK[rows] = out.round_().clamp_(-INT8_MAX, INT8_MAX)
    return q_MK, scale_M


def _scale_product(
    product_MN: Tensor, scale_N: Tensor, scale_M: Tensor, bias: Tensor | None
) -> Tensor:
    """int32 sums (M, N) -> fp32 outputs, in the memory of the sums."""
    out_MN = product_MN.view(torch.float32)
    for rows in _blocks(*product_MN.shape):
        part = out_MN[rows].copy_(product_MN[rows])
        finish_product(part.mul_(scale_N), scale_M[rows], bias)
    return out_MN


def _largest(x: Tensor) -> float:
    """The largest magnitude of a channels-last map, in one pass."""
    pixels = x.permute(0, 2, 3, 1)
    if native.runs(pixels, whole=True):
        return native.largest(pixels)
    lowest, highest = torch.aminmax(pixels.reshape(-1))
    return float(torch.maximum(highest, lowest.neg()))


def _as_u8(q: Tensor) -> Tensor:
    """int8 -> uint8 with the offset, in the width that wraps around; uint8 has it already."""
    return q if q.dtype == torch.uint8 else q.view(torch.uint8).add(_OFFSET)


# -- oneDNN ----------------------------------------------------------------------------------------


def _onednn_pack(q_NK: Tensor, scale_N: Tensor) -> Any:
    zeros_N = torch.zeros(len(q_NK), dtype=torch.int32)
    return torch.ops.onednn.qlinear_prepack(q_NK, None), scale_N, zeros_N


def _onednn_product(q_MK: Tensor, packed: Any) -> Tensor:
    """int8, or uint8 with the offset, (M, K) -> fp32 (M, N), already times the weights' scales."""
    weight, scale_N, zeros_N = packed
    return torch.ops.onednn.qlinear_pointwise(
        _as_u8(q_MK), 1.0, _OFFSET, weight, scale_N, zeros_N, None, 1.0, 0, torch.float32, "none",
        [], "",
    )  # fmt: skip


@cache
def _onednn_weight_max() -> int:
    return _largest_exact(_onednn_pack, _onednn_product)


def _onednn_run(x: Tensor, packed: Any, layer: QuantLinear) -> Tensor:
    return _run_int8(x, packed, layer, _onednn_product, offset=_OFFSET)


_PLAIN = (1, 1), (0, 0)  # stride and padding of a 1x1 convolution


def _as_conv_pack(q_NK: Tensor, scale_N: Tensor) -> Any:
    return _packed_conv(q_NK[:, :, None, None], scale_N, *_PLAIN)


def _as_conv_product(q_MK: Tensor, packed: Any) -> Tensor:
    """Multiply as `_onednn_product` does, to the bit: tokens are the pixels of a map one pixel high, channels last."""
    out = _conv(_as_u8(q_MK).t()[None, :, None, :], 1.0, None, torch.float32, packed, *_PLAIN)
    product_MN: Tensor = out[0, :, 0, :].t()
    return product_MN.contiguous()


@cache
def _as_conv_weight_max() -> int:
    return _largest_exact(_as_conv_pack, _as_conv_product)


def _as_conv_run(x: Tensor, packed: Any, layer: QuantLinear) -> Tensor:
    return _run_int8(x, packed, layer, _as_conv_product, offset=_OFFSET)


# -- FBGEMM ----------------------------------------------------------------------------------------


def _fbgemm_pack(q_NK: Tensor, scale_N: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is moving its quantized tensors elsewhere
        zeros_N = torch.zeros(len(q_NK), dtype=torch.long)
        weight = torch._make_per_channel_quantized_tensor(q_NK, scale_N.double(), zeros_N, 0)
    return torch.ops.quantized.linear_prepack(weight, None)


def _fbgemm_product(q_MK: Tensor, packed: Any) -> Tensor:
    """Multiply as `_onednn_product` does; FBGEMM wants floats and quantizes them, here by the scale 1."""
    return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        q_MK.float(), 1.0, _OFFSET, packed
    )


@cache
def _fbgemm_weight_max() -> int:
    return _largest_exact(_fbgemm_pack, _fbgemm_product)


def _fbgemm_run(x: Tensor, packed: Any, layer: QuantLinear) -> Tensor:
    return _run_int8(x, packed, layer, _fbgemm_product)


def _fbgemm_available() -> bool:
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        return False  # a trial of fewer instructions, which FBGEMM ignores
    return torch.backends.quantized.engine in ("fbgemm", "x86")


# -- shared ----------------------------------------------------------------------------------------


def quantized_tokens(x: Tensor, layer: QuantLinear, *, offset: int = 0) -> tuple[Tensor, Tensor]:
    """x (..., K) -> int8 (M, K) and fp32 scales (M,), after the layer's smoothing; `offset` as for `quantize_tokens`."""
    return quantize_tokens(x.flatten(0, -2), layer.smooth, offset=offset)


def _run_int8(
    x: Tensor, packed: Any, layer: QuantLinear, product: Any, *, offset: int = 0
) -> Tensor:
    q_MK, scale_M = quantized_tokens(x, layer, offset=offset)
    product_MN = product(q_MK, packed)
    # In fp32 torch's way is one pass, too, in the product's own memory.
    if x.dtype == torch.bfloat16 and native.runs(product_MN, whole=True):
        out = native.finish_product(product_MN, scale_M, layer.bias, x.dtype)
    else:
        out = finish_product(product_MN, scale_M, layer.bias).to(x.dtype)
    return out.unflatten(0, x.shape[:-1])


def _weight_up_to(largest: int, layer: QuantLinear | QuantConv2d) -> tuple[Tensor, Tensor]:
    """The layer's integers and scales, made smaller where they may not be larger than that."""
    if largest == INT8_MAX:
        return layer.qweight, layer.scale
    q = torch.empty_like(layer.qweight)
    for rows in _blocks(len(q), layer.qweight[0].numel()):
        q[rows] = layer.qweight[rows].float().mul_(largest / INT8_MAX).round_()
    return q, layer.scale * (INT8_MAX / largest)


def _largest_exact(pack: Any, product: Any) -> int:
    """127 where the product of 8-bit inputs is exact for the largest weights, else 63.

    RuntimeError when it is not exact even then: such a kernel must not be used.
    """
    generator = torch.Generator().manual_seed(0)
    q_MK = _integers(24, INT8_MAX, generator)
    for largest in (INT8_MAX, INT7_MAX):
        q_NK = _integers(48, largest, generator)
        exact = q_MK.double() @ q_NK.double().T
        if torch.equal(product(q_MK, pack(q_NK, torch.ones(48))).double(), exact):
            return largest
    raise RuntimeError("the 8-bit product is not exact")


def _integers(rows: int, largest: int, generator: torch.Generator) -> Tensor:
    """int8 (rows, 256) for a trial: eight rows of the largest value, eight of its negative, then random ones."""
    q = torch.randint(-largest, largest + 1, (rows, 256), generator=generator).to(torch.int8)
    q[:8], q[8:16] = largest, -largest
    return q


# -- torch's own integer product -------------------------------------------------------------------


@cache
def _int_mm_weight_max() -> int:
    """127 where the product of 8-bit inputs is exact for the largest weights, else 63; 0: not even then."""
    generator = torch.Generator().manual_seed(0)
    q_MK = _integers(32, INT8_MAX, generator)
    for largest in (INT8_MAX, INT7_MAX):
        q_NK = _integers(48, largest, generator)
        try:
            product = torch._int_mm(q_MK, q_NK.T)
        except RuntimeError:  # not there in this build
            return 0
        if torch.equal(product.double(), q_MK.double() @ q_NK.double().T):
            return largest
    return 0


def int_mm_is_exact() -> bool:
    """Return whether `torch._int_mm` adds up any int8 values here without saturating on the way."""
    return _int_mm_weight_max() == INT8_MAX


def _int_mm_run(x: Tensor, packed: None, layer: QuantLinear) -> Tensor:
    q_MK, scale_M = quantized_tokens(x, layer)
    product_MN = torch._int_mm(q_MK, layer.qweight.T)
    out_MN = _scale_product(product_MN, layer.scale, scale_M, layer.bias)
    return out_MN.to(x.dtype).unflatten(0, x.shape[:-1])


def int8_products(q_MK: Tensor, q_NK: Tensor) -> Iterator[Callable[[], Tensor]]:
    """Yield each way to multiply int8 matrices that exists here: (M, K), (N, K) -> (M, N), without the packing."""
    scale_N = torch.ones(len(q_NK))
    if _has_onednn():
        yield partial(_onednn_product, q_MK, _onednn_pack(q_NK, scale_N))
        yield partial(_as_conv_product, q_MK, _as_conv_pack(q_NK, scale_N))
    if _fbgemm_available():
        yield partial(_fbgemm_product, q_MK, _fbgemm_pack(q_NK, scale_N))
    if _int_mm_weight_max():
        yield lambda: torch._int_mm(q_MK, q_NK.T)


# -- 8-bit weights alone -----------------------------------------------------------------------------


def _expanded_run(x: Tensor, packed: None, layer: QuantLinear) -> Tensor:
    if layer.smooth is not None:
        x = x * layer.smooth.to(x.dtype)
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return _onednn_linear(x, layer.dequantize(x.dtype), bias)


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """By oneDNN where it multiplies this type, which is not what torch takes for fp32 products."""
    if not _onednn_multiplies(x.dtype):
        return F.linear(x, weight, bias)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


@cache
def _onednn_multiplies(dtype: torch.dtype) -> bool:
    """Return whether this CPU has the instructions: bf16 needs AVX-512 or AMX, fp16 newer ones still."""
    trial = torch.ones(8, 8, dtype=dtype)
    try:
        torch.ops.mkldnn._linear_pointwise(trial, trial, None, "none", [], "")
    except RuntimeError:
        return False
    return True


# -- 4-bit weights ---------------------------------------------------------------------------------


def _unpack(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """The integers -8..7 of packed rows (N, bytes) in another type: (N, 2 * bytes)."""
    pairs = packed.to(torch.int16)
    # A byte next to itself, four bits higher: its lower nibble is in the lower byte and its upper one in the upper.
    pairs.bitwise_or_(pairs << 4).bitwise_and_(0x0F0F)
    return pairs.view(torch.int8).sub_(8).to(dtype)


def _times_groups(wide: Tensor, factor_NG: Tensor, layer: QuantLinear) -> Tensor:
    """(N, K) times a factor per group, in place where the last group is whole."""
    G, group, K = factor_NG.shape[1], layer.config.group_size, layer.in_features
    if K == G * group:
        wide.view(-1, G, group).mul_(factor_NG[:, :, None])
        return wide
    return wide[:, :K] * factor_NG.repeat_interleave(group, dim=1)[:, :K]


def _times_expanded(
    x: Tensor,
    layer: QuantLinear,
    product: Callable[[Tensor, Tensor], Tensor] = F.linear,
    *,
    block: int = _EXPANDED,
) -> Tensor:
    """x (..., K) times the weight of a 4-bit layer, in the type of x: (..., N).

    A few output channels at a time: their weights are multiplied while they are in the cores' caches, and the next
    ones take their place in memory.
    """
    group = layer.config.group_size
    whole = layer.in_features % group == 0
    parts = []
    for rows in _blocks(layer.out_features, layer.in_features, block):
        packed, scale = layer.qweight[rows], layer.scale[rows].to(x.dtype)
        if whole and packed.is_contiguous() and native.runs(scale, whole=True):
            weight = native.dequantize_groups(packed, scale, group)
        else:
            weight = _times_groups(_unpack(packed, x.dtype), scale, layer)
        parts.append(product(x, weight))
    return torch.cat(parts, dim=-1)


def _int4_run(
    x: Tensor,
    packed: None,
    layer: QuantLinear,
    product: Callable[[Tensor, Tensor], Tensor] = F.linear,
) -> Tensor:
    if layer.smooth is not None:
        x = x * layer.smooth.to(x.dtype)
    out = _times_expanded(x, layer, product)
    return out if layer.bias is None else out.add_(layer.bias.to(x.dtype))


def _int4_onednn_run(x: Tensor, packed: None, layer: QuantLinear) -> Tensor:
    return _int4_run(x, packed, layer, _onednn_linear)


def _int4_bf16_run(x: Tensor, packed: None, layer: QuantLinear) -> Tensor:
    """The product in bf16 whatever the inputs: several times faster where there are instructions for it."""
    if layer.smooth is not None:
        x = x * layer.smooth.to(x.dtype)
    out = _times_expanded(x.bfloat16(), layer).to(x.dtype)
    return out if layer.bias is None else out.add_(layer.bias.to(x.dtype))


_FRACTION_BITS = 8  # of a group's factor: 0..16 in 16 bits, times -8..7


def _int4_int8_pack(layer: QuantLinear) -> tuple[Tensor, Tensor]:
    """A scale per output channel (N,), and each group's own as a multiple of it, in 1/256 (N, G) int16."""
    scale_NG = layer.scale.float()
    scale_N = scale_NG.amax(dim=1) * 8 / _int_mm_weight_max()
    ratio_NG = scale_NG / torch.where(scale_N > 0, scale_N, torch.ones_like(scale_N))[:, None]
    return scale_N, (ratio_NG * 2**_FRACTION_BITS).round().to(torch.int16)


def _int4_int8_run(x: Tensor, packed: tuple[Tensor, Tensor], layer: QuantLinear) -> Tensor:
    """Weights become 8-bit ones with a scale per channel, inputs 8-bit ones with a scale per token."""
    scale_N, ratio_NG = packed
    q_MK, scale_M = quantized_tokens(x, layer)
    wide = _times_groups(_unpack(layer.qweight, torch.int16), ratio_NG, layer)
    wide.add_(2 ** (_FRACTION_BITS - 1)).bitwise_right_shift_(_FRACTION_BITS)  # to nearest
    product_MN = torch._int_mm(q_MK, wide.to(torch.int8).T)
    out_MN = _scale_product(product_MN, scale_N, scale_M, layer.bias)
    return out_MN.to(x.dtype).unflatten(0, x.shape[:-1])


# -- convolutions ----------------------------------------------------------------------------------


def _conv_pack(layer: QuantConv2d) -> Any:
    q, scale_N = _weight_up_to(_onednn_weight_max(), layer)  # the same instructions
    return _packed_conv(q, scale_N, layer.stride, layer.padding)


def _packed_conv(
    q: Tensor, scale_N: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Any:
    weight = torch.ops.onednn.qconv_prepack(
        q, scale_N, 1.0, _OFFSET, stride, padding, (1, 1), 1, None
    )
    return weight, scale_N, torch.zeros(len(q), dtype=torch.int32)


def _conv(
    x: Tensor,
    scale: float,
    bias: Tensor | None,
    dtype: torch.dtype,
    packed: Any,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """uint8 (B, K, H, W) with the offset and one scale, by what `_packed_conv` packed -> (B, N, H', W')."""
    weight, scale_N, zeros_N = packed
    out: Tensor = torch.ops.onednn.qconv_pointwise(
        x, scale, _OFFSET, weight, scale_N, zeros_N, bias, stride, padding, (1, 1), 1, 1.0, 0, dtype,
        "none", [], "",
    )  # fmt: skip
    return out


def _conv_run(x: Tensor, packed: Any, layer: QuantConv2d) -> Tensor:
    bias = None if layer.bias is None else layer.bias.float()
    # Scales and bias are applied in fp32 either way; 16-bit types that oneDNN may lack are made here.
    dtype = x.dtype if x.dtype == torch.bfloat16 else torch.float32
    x = x.contiguous(memory_format=torch.channels_last)
    outputs = []
    for picture in x.split(1):
        if layer.act_scale is None:
            scale = _largest(picture) / INT8_MAX or 1.0  # a map of zeros stays one
        else:
            scale = float(layer.act_scale)
        q = _quantize_map(picture, scale)
        outputs.append(_conv(q, scale, bias, dtype, packed, layer.stride, layer.padding))
    out = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return out.to(x.dtype)


def _quantize_map(x: Tensor, scale: float) -> Tensor:
    """A channels-last map -> uint8 with the offset, in the same order."""
    pixels = x.permute(0, 2, 3, 1)
    if native.runs(pixels, whole=True):
        return native.quantize_all(pixels, scale, offset=_OFFSET).permute(0, 3, 1, 2)
    q = torch.empty_like(x, dtype=torch.uint8)
    values, integers = (t.permute(0, 2, 3, 1).view(-1, 1) for t in (x, q))
    for rows, wide, out in _in_fp32(values):
        torch.div(wide, scale, out=out).round_().clamp_(-INT8_MAX, INT8_MAX)
        integers[rows] = out.add_(_OFFSET)
    return q


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")


_REDUCED = "exact with VNNI instructions; 7-bit weights without"
KERNELS = (
    Kernel(
        name="onednn", backend="native", schemes=("w8a8",), layer=QuantLinear, devices=("cpu",),
        pack=lambda layer: _onednn_pack(*_weight_up_to(_onednn_weight_max(), layer)),
        run=_onednn_run, is_available=_has_onednn, frees_weight=True,
        note=_REDUCED,
    ),
    Kernel(
        name="onednn, 1x1", backend="native", schemes=("w8a8",), layer=QuantLinear, devices=("cpu",),
        pack=lambda layer: _as_conv_pack(*_weight_up_to(_as_conv_weight_max(), layer)),
        run=_as_conv_run, is_available=_has_onednn, frees_weight=True, note=_REDUCED,
    ),
    Kernel(
        name="fbgemm", backend="native", schemes=("w8a8",), layer=QuantLinear, devices=("cpu",),
        pack=lambda layer: _fbgemm_pack(*_weight_up_to(_fbgemm_weight_max(), layer)),
        run=_fbgemm_run, is_available=_fbgemm_available, frees_weight=True,
        note=_REDUCED,
    ),
    Kernel(
        name="int_mm", backend="native", schemes=("w8a8",), layer=QuantLinear, devices=("cpu",),
        run=_int_mm_run, is_available=int_mm_is_exact,
    ),
    Kernel(
        name="expanded, onednn", backend="native", schemes=("w8a16",), layer=QuantLinear,
        devices=("cpu",), run=_expanded_run, is_available=_has_onednn,
    ),
    Kernel(
        name="expanded", backend="native", schemes=("w4a16",), layer=QuantLinear,
        devices=("cpu",), run=_int4_run,
    ),
    Kernel(
        name="expanded, onednn", backend="native", schemes=("w4a16",), layer=QuantLinear,
        devices=("cpu",), run=_int4_onednn_run, is_available=_has_onednn,
    ),
    Kernel(
        name="expanded, bf16", backend="native", schemes=("w4a16",), layer=QuantLinear,
        devices=("cpu",), run=_int4_bf16_run, note="products of bf16 values",
    ),
    Kernel(
        name="expanded, int8", backend="native", schemes=("w4a16",), layer=QuantLinear,
        devices=("cpu",), pack=_int4_int8_pack, run=_int4_int8_run,
        is_available=lambda: _int_mm_weight_max() > 0, note="8-bit inputs",
    ),
    Kernel(
        name="onednn", backend="native", schemes=("w8a8",), layer=QuantConv2d, devices=("cpu",),
        pack=_conv_pack, run=_conv_run, is_available=_has_onednn, frees_weight=True, note=_REDUCED,
    ),
)  # fmt: skip
