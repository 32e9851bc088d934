"""Tiles of W x^T: weights take the side of the tensor cores' instruction that may come from registers,
and a few tokens the side that may be short. One step is one group of channels.
"""

# M rows (tokens), K input channels, N output channels, G groups of input channels

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from quant.kernels.checks import interpreted
from quant.kernels.dependent import launch_options
from quant.kernels.tiles import Tile
from quant.kernels.waiting import wait_for_inputs

if TYPE_CHECKING:
    from quant.kernels.linear_w4a16 import GroupedWeight


@triton.jit
def _integers(stored):
    """0..15 -> -8.0..7.0. A stored value becomes the last bits of 2^23, since a conversion from integers
    runs at a quarter of the speed of other instructions."""
    return (stored.to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + 8.0)


@triton.jit
def linear_w4a16_kernel(
    x_ptr,
    packed_ptr,
    scale_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    K,
    stride_x,
    stride_out,
    EVEN_K: tl.constexpr,
    DOT: tl.constexpr,  # type of the tensor cores' inputs
    HALF: tl.constexpr,  # bytes of a group
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    wait_for_inputs(DEPENDENT)
    # Tiles of the same weights follow each other: they are read from memory once.
    tiles_m = tl.cdiv(M, BLOCK_M)
    tile_m = tl.program_id(0) % tiles_m
    tile_n = tl.program_id(0) // tiles_m
    first = tile_m.to(tl.int64) * BLOCK_M
    rows = tl.arange(0, BLOCK_M)
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows and columns past the end read the last one, which needs no mask; they are not stored.
    read_rows = tl.minimum(rows, M - 1 - tile_m * BLOCK_M)
    read_cols = tl.minimum(cols, N - 1)
    ks = tl.arange(0, HALF)
    x_tile = x_ptr + first * stride_x + read_rows[None, :] * stride_x + ks[:, None]
    packed_tile = packed_ptr + read_cols[:, None] * HALF + ks[None, :]
    scale_tile = scale_ptr + read_cols
    sums = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for k in range(0, K, 2 * HALF):
        packed = tl.load(packed_tile)
        scale = tl.load(scale_tile).to(tl.float32)
        if EVEN_K:
            x_low = tl.load(x_tile)
            x_high = tl.load(x_tile + HALF)
        else:
            x_low = tl.load(x_tile, mask=(ks < K - k)[:, None], other=0.0)
            x_high = tl.load(x_tile + HALF, mask=(ks < K - k - HALF)[:, None], other=0.0)
        group = tl.dot(_integers(packed & 15).to(DOT), x_low.to(DOT))
        group = tl.dot(_integers(packed >> 4).to(DOT), x_high.to(DOT), group)
        sums += group * scale[:, None]
        x_tile += 2 * HALF
        packed_tile += N * HALF
        scale_tile += N
    if bias_ptr is not None:
        sums += tl.load(bias_ptr + read_cols).to(tl.float32)[:, None]
    inside = (first + rows < M)[:, None] & (cols < N)[None, :]
    at = rows[:, None] * stride_out + cols[None, :]
    out = tl.trans(sums).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + first * stride_out + at, out, mask=inside)


def _dot_type(dtype: torch.dtype) -> tl.dtype:
    """Return the inputs' type; fp32 under the interpreter, which multiplies the bits of bf16 as integers."""
    if interpreted():
        return tl.float32
    return tl.bfloat16 if dtype == torch.bfloat16 else tl.float16


def launch(
    x: Tensor, weight: "GroupedWeight", bias: Tensor | None, out: Tensor, tile: Tile
) -> None:
    """Fill out (M, N)."""
    M, K = x.shape
    N = out.shape[1]
    grid = (triton.cdiv(M, tile.m) * triton.cdiv(N, tile.n),)
    with torch.cuda.device_of(x):
        linear_w4a16_kernel[grid](
            x,
            weight.packed,
            weight.scale,
            bias,
            out,
            M,
            N,
            K,
            x.stride(0),
            out.stride(0),
            EVEN_K=K % weight.group_size == 0,
            DOT=_dot_type(x.dtype),
            HALF=weight.group_size // 2,
            BLOCK_M=tile.m,
            BLOCK_N=tile.n,
            **launch_options(),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
