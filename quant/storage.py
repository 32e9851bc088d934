"""Turn float weights into what a file holds, and back: one record of functions for each storage."""

# N output channels, K input channels, G groups of input channels

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quant.native import rows as native
from quant.packing import pack_int4, unpack_int4
from quant.primitives import (
    dequantize_per_channel,
    dequantize_per_group,
    quantize_per_channel,
    quantize_per_group,
    quantize_rows_float8,
    search_group_scales,
)
from quant.schemes import Scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Functions over one layout of `qweight` (what a file holds) and `scale`."""

    # A float weight (N, K) and the group size -> values (N, K), not packed, and their scales.
    quantize: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    pack: Callable[[Tensor], Tensor]  # values (N, K) -> `qweight`
    # `qweight`, `scale`, K, group size, type -> the weight (N, K) in that type.
    dequantize: Callable[[Tensor, Tensor, int, int, torch.dtype], Tensor]


def _quantize_int4(weight_NK: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    best = search_group_scales(weight_NK, group_size)
    return quantize_per_group(weight_NK, group_size, scale_NG=best)


def _dequantize_int8(q_NK: Tensor, scale_N: Tensor, dtype: torch.dtype) -> Tensor:
    is_here = q_NK.is_cpu and q_NK.is_contiguous()
    if is_here and dtype in native.TYPES and native.runs(scale_N):
        return native.dequantize_rows(q_NK, scale_N, dtype)
    return dequantize_per_channel(q_NK, scale_N, dtype)


def _dequantize_int4(
    qweight: Tensor, scale: Tensor, K: int, group_size: int, dtype: torch.dtype
) -> Tensor:
    return dequantize_per_group(unpack_int4(qweight, K), scale, group_size, dtype)


_STORAGES = {
    "int8": Storage(
        quantize=lambda weight_NK, group_size: quantize_per_channel(weight_NK),
        pack=lambda q_NK: q_NK,
        dequantize=lambda q_NK, scale, K, group_size, dtype: _dequantize_int8(q_NK, scale, dtype),
    ),
    "float8": Storage(
        quantize=lambda weight_NK, group_size: quantize_rows_float8(weight_NK),
        pack=lambda q_NK: q_NK,
        dequantize=lambda q_NK, scale, K, group_size, dtype: dequantize_per_channel(
            q_NK, scale, dtype
        ),
    ),
    "int4": Storage(quantize=_quantize_int4, pack=pack_int4, dequantize=_dequantize_int4),
}


def storage_of(scheme: Scheme) -> Storage:
    """The functions that make and read a scheme's weights."""
    return _STORAGES[scheme.storage]


def empty_tensors(
    scheme: Scheme, weight: tuple[int, ...], group_size: int
) -> tuple[Tensor, Tensor]:
    """`qweight` and `scale` of a layer whose float weight has such a shape, not filled."""
    qweight, scale = scheme.shapes(weight, group_size)
    return (
        torch.empty(qweight, dtype=getattr(torch, scheme.qweight_dtype)),
        torch.empty(scale, dtype=getattr(torch, scheme.scale_dtype)),
    )
