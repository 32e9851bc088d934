"""Finish an int8 product inside its kernel: one pass over the sums while they are in registers.

Rows are counted from the tile's first, which is 64 bits wide: no offset inside a tile overflows 32.
"""

import triton
import triton.language as tl

from quant.kernels.rows import raise_largest


@triton.jit
def tile_of(pid, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """Row and column of a program's tile. GROUP rows of tiles are walked column by column, so programs
    that run at one time share a few columns of weights and a few rows of inputs in L2."""
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    first = pid // (GROUP * tiles_n) * GROUP
    rows = tl.minimum(tiles_m - first, GROUP)
    inside = pid % (GROUP * tiles_n)
    return first + inside % rows, inside // rows


@triton.jit
def finish(
    out,  # fp32 (BLOCK_M, BLOCK_N)
    first,  # the tile's first row, int64
    rows,  # (BLOCK_M,), from `first` on
    cols,  # (BLOCK_N,)
    M,
    N,
    bias_ptr,  # (N,) or None
    gate_ptr,  # (M // tokens, N) or None
    residual_ptr,  # (M, N) or None
    out_ptr,  # (M, N)
    largest_ptr,  # (M,) bits of fp32, raised to the largest magnitudes of rows; or None
    smooth_ptr,  # (N,) or None: those of rows times this
    tokens,
    stride_gate,
    stride_residual,
    stride_out,
    SILU: tl.constexpr,
    GATE_PER_TILE: tl.constexpr,  # no tile holds rows of two pictures
):
    """Returns what was stored, as fp32, with zeros outside of the result."""
    in_cols = cols < N
    inside = (first + rows < M)[:, None] & in_cols[None, :]
    if bias_ptr is not None:
        out += tl.load(bias_ptr + cols, mask=in_cols, other=0.0).to(tl.float32)[None, :]
    if SILU:
        out *= tl.sigmoid(out)
    if gate_ptr is not None:
        if GATE_PER_TILE:
            gate_row = gate_ptr + first // tokens * stride_gate
            out *= tl.load(gate_row + cols, mask=in_cols, other=0.0).to(tl.float32)[None, :]
        else:
            gate_rows = gate_ptr + (first + rows) // tokens * stride_gate
            gate = tl.load(gate_rows[:, None] + cols[None, :], mask=inside, other=0.0)
            out *= gate.to(tl.float32)
    if residual_ptr is not None:
        residual_ptr += first * stride_residual
        at = rows[:, None] * stride_residual + cols[None, :]
        out += tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
    out_ptr += first * stride_out
    at = rows[:, None] * stride_out + cols[None, :]
    stored = out.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + at, stored, mask=inside)
    seen = tl.where(inside, stored.to(tl.float32), 0.0)
    if largest_ptr is not None:
        if smooth_ptr is not None:
            seen *= tl.load(smooth_ptr + cols, mask=in_cols, other=0.0).to(tl.float32)[None, :]
        raise_largest(seen, inside, largest_ptr + first + rows, first + rows < M)
    return seen
