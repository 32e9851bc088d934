"""Tiles of an int8 product on tensor cores. Both operands are read along K, as they lie in memory.

Inputs may be floats with known largest magnitudes: each program then quantizes the rows it reads.
"""

# M rows (tokens), K input channels, N output channels, B batch

import torch
import triton
import triton.language as tl
from torch import Tensor

from quant.kernels.dependent import launch_options
from quant.kernels.epilogue import finish, tile_of
from quant.kernels.rows import divisors, quantize_tile, remainders
from quant.kernels.tiles import Tile
from quant.kernels.waiting import wait_for_inputs


@triton.jit
def _finish_columns(
    sums,  # int32 (BLOCK_M, columns)
    scale,  # of the rows
    weight_scale_ptrs,  # of the columns
    first,
    rows,
    cols,
    M,
    N,
    bias_ptr,
    gate_ptr,
    residual_ptr,
    out_ptr,
    largest_ptr,
    smooth_ptr,
    tokens,
    stride_gate,
    stride_residual,
    stride_out,
    SILU: tl.constexpr,
    GATE_PER_TILE: tl.constexpr,
):
    """Scale the sums of some columns of the tile, and `finish` them."""
    out = sums.to(tl.float32) * scale[:, None] * tl.load(weight_scale_ptrs)[None, :]
    finish(
        out, first, rows, cols, M, N, bias_ptr, gate_ptr, residual_ptr, out_ptr, largest_ptr, smooth_ptr, tokens,
        stride_gate, stride_residual, stride_out, SILU, GATE_PER_TILE,
    )  # fmt: skip


@triton.jit
def linear_w8a8_kernel(
    q_ptr,  # int8, or floats
    scale_ptr,  # (M,) scales of int8, largest magnitudes of floats
    weight_ptr,
    weight_scale_ptr,
    bias_ptr,
    gate_ptr,
    residual_ptr,
    out_ptr,
    largest_ptr,
    smooth_ptr,
    M,
    N,
    K,
    tokens,
    stride_q,
    stride_weight,
    stride_gate,
    stride_residual,
    stride_out,
    SILU: tl.constexpr,
    GATE_PER_TILE: tl.constexpr,
    REMAINDERS: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    EXTRA: tl.constexpr,  # columns next to BLOCK_N, which is a power of two; or 0
    DEPENDENT: tl.constexpr,
):
    wait_for_inputs(DEPENDENT)
    WIDTH: tl.constexpr = BLOCK_N + EXTRA
    tile_m, tile_n = tile_of(tl.program_id(0), M, N, BLOCK_M, WIDTH, GROUP)
    first = tile_m.to(tl.int64) * BLOCK_M
    first_col = tile_n.to(tl.int64) * WIDTH
    rows = tl.arange(0, BLOCK_M)
    cols = tl.arange(0, BLOCK_N)
    # Rows and columns past the end read the last one, which needs no mask; they are not stored.
    read_rows = tl.minimum(rows, M - 1 - tile_m * BLOCK_M)
    read_cols = tl.minimum(cols, N - 1 - tile_n * WIDTH)
    ks = tl.arange(0, BLOCK_K)
    q_tile = q_ptr + first * stride_q + read_rows[:, None] * stride_q + ks[None, :]
    weights = weight_ptr + first_col * stride_weight + ks[:, None]
    w_tile = weights + read_cols[None, :] * stride_weight
    if EXTRA > 0:
        more_cols = BLOCK_N + tl.arange(0, EXTRA)
        read_more = tl.minimum(more_cols, N - 1 - tile_n * WIDTH)
        more_tile = weights + read_more[None, :] * stride_weight
        more_sums = tl.zeros((BLOCK_M, EXTRA), dtype=tl.int32)
    if q_ptr.dtype.element_ty != tl.int8:
        lift, divisor, inverse = divisors(tl.load(scale_ptr + first + read_rows))
    sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    for k in range(0, K, BLOCK_K):
        if EVEN_K:
            q = tl.load(q_tile)
            w = tl.load(w_tile)
        else:
            q = tl.load(q_tile, mask=(ks < K - k)[None, :], other=0)
            w = tl.load(w_tile, mask=(ks < K - k)[:, None], other=0)
        if q_ptr.dtype.element_ty != tl.int8:
            q = quantize_tile(q, lift, divisor, inverse, REMAINDERS)
        sums = tl.dot(q, w, sums, out_dtype=tl.int32)
        if EXTRA > 0:
            if EVEN_K:
                more = tl.load(more_tile)
            else:
                more = tl.load(more_tile, mask=(ks < K - k)[:, None], other=0)
            more_sums = tl.dot(q, more, more_sums, out_dtype=tl.int32)
            more_tile += BLOCK_K
        q_tile += BLOCK_K
        w_tile += BLOCK_K
    scale = tl.load(scale_ptr + first + read_rows)
    if q_ptr.dtype.element_ty != tl.int8:
        scale = tl.div_rn(scale, 127.0)
    _finish_columns(
        sums, scale, weight_scale_ptr + first_col + read_cols, first, rows, tile_n * WIDTH + cols, M, N, bias_ptr,
        gate_ptr, residual_ptr, out_ptr, largest_ptr, smooth_ptr, tokens, stride_gate, stride_residual, stride_out,
        SILU, GATE_PER_TILE,
    )  # fmt: skip
    if EXTRA > 0:
        _finish_columns(
            more_sums, scale, weight_scale_ptr + first_col + read_more, first, rows, tile_n * WIDTH + more_cols,
            M, N, bias_ptr, gate_ptr, residual_ptr, out_ptr, largest_ptr, smooth_ptr, tokens, stride_gate,
            stride_residual, stride_out, SILU, GATE_PER_TILE,
        )  # fmt: skip


def launch(
    q: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    largest: Tensor | None,
    smooth: Tensor | None,
    activation: str | None,
    tile: Tile,
) -> None:
    """Fill out (M, N); raise `largest` (M,)."""
    M, K = q.shape
    N = weight.shape[0]
    tokens = M if gate is None else M // len(gate)
    grid = (tile.programs(M, N),)
    with torch.cuda.device_of(q):
        linear_w8a8_kernel[grid](
            q,
            scale,
            weight,
            weight_scale,
            bias,
            gate,
            residual,
            out,
            None if largest is None else largest.view(torch.int32),
            smooth,
            M,
            N,
            K,
            tokens,
            q.stride(0),
            weight.stride(0),
            0 if gate is None else gate.stride(0),
            0 if residual is None else residual.stride(0),
            out.stride(0),
            SILU=activation == "silu",
            GATE_PER_TILE=tokens % tile.m == 0,
            REMAINDERS=remainders(q),
            EVEN_K=K % tile.k == 0,
            BLOCK_M=tile.m,
            BLOCK_N=tile.n,
            BLOCK_K=tile.k,
            GROUP=tile.group,
            EXTRA=tile.extra,
            **launch_options(),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
