"""Run a program per strip of rows, some columns and channels wide, from top to bottom: each row is
read once for the three rows that it is a part of, whose sums stay in registers.
"""

# B batch, H x W positions, C channels of the result

import torch
import triton
import triton.language as tl
from torch import Tensor

from quant.kernels.dependent import launch_options
from quant.kernels.waiting import wait_for_inputs

BLOCK_W, BLOCK_C, WARPS = 16, 32, 4  # four values a thread: eight take half of the warps away
_PROGRAMS = 512  # a few for each multiprocessor


@triton.jit
def _row(x_row, columns, cs, W, C, stride, in_row, SILU: tl.constexpr):
    """Load a row's values at columns, fp32, zeros outside of the map. (BLOCK_W, BLOCK_C)"""
    inside = ((columns >= 0) & (columns < W) & in_row)[:, None] & (cs < C)[None, :]
    x = tl.load(x_row + columns[:, None] * stride + cs[None, :], mask=inside, other=0.0)
    x = x.to(tl.float32)
    if SILU:
        x *= tl.sigmoid(x)
    return x


@triton.jit
def _tap(weight_ptr, tap: tl.constexpr, cs, C):
    """The weights of one tap, fp32, (1, BLOCK_C)."""
    return tl.load(weight_ptr + tap * 2 * C + cs, mask=cs < C, other=0.0).to(tl.float32)[None, :]


@triton.jit
def depthwise3x3_glu_kernel(
    x_ptr,  # (B, H, W, 2C)
    weight_ptr,  # (9, 2C)
    bias_ptr,  # (2C,)
    out_ptr,  # (B, H, W, C)
    H,
    W,
    C,
    rows,  # of a strip
    SILU: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    wait_for_inputs(DEPENDENT)
    strips = tl.cdiv(H, rows)
    picture = (tl.program_id(2) // strips).to(tl.int64)
    first = tl.program_id(2) % strips * rows
    columns = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    cs = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_cs = cs < C
    bias = tl.load(bias_ptr + cs, mask=in_cs, other=0.0).to(tl.float32)[None, :]
    gate_bias = tl.load(bias_ptr + C + cs, mask=in_cs, other=0.0).to(tl.float32)[None, :]
    inside = (columns < W)[:, None] & in_cs[None, :]
    # Sums of the row above the one that is read, of that row, and of the one below.
    above = tl.zeros((BLOCK_W, BLOCK_C), dtype=tl.float32)
    gate_above = above
    here = above
    gate_here = above
    for y in range(first - 1, tl.minimum(first + rows, H) + 1):
        below = tl.zeros((BLOCK_W, BLOCK_C), dtype=tl.float32) + bias
        gate_below = tl.zeros((BLOCK_W, BLOCK_C), dtype=tl.float32) + gate_bias
        x_row = x_ptr + (picture * H + y) * W * 2 * C
        in_row = (y >= 0) & (y < H)
        for dx in tl.static_range(3):
            x = _row(x_row, columns + (dx - 1), cs, W, C, 2 * C, in_row, SILU)
            above += x * _tap(weight_ptr, 6 + dx, cs, C)
            here += x * _tap(weight_ptr, 3 + dx, cs, C)
            below += x * _tap(weight_ptr, dx, cs, C)
            x = _row(x_row + C, columns + (dx - 1), cs, W, C, 2 * C, in_row, SILU)
            gate_above += x * _tap(weight_ptr + C, 6 + dx, cs, C)
            gate_here += x * _tap(weight_ptr + C, 3 + dx, cs, C)
            gate_below += x * _tap(weight_ptr + C, dx, cs, C)
        if y > first:
            out = above * gate_above * tl.sigmoid(gate_above)
            out_row = out_ptr + (picture * H + y - 1) * W * C
            at = columns[:, None] * C + cs[None, :]
            tl.store(out_row + at, out.to(out_ptr.dtype.element_ty), mask=inside)
        above = here
        gate_above = gate_here
        here = below
        gate_here = gate_below


def strip_rows(B: int, H: int, W: int, C: int) -> int:
    """Return the rows of a strip: 8, since each strip reads two more, unless too few programs would run."""
    for rows in (8, 4):
        if B * -(-H // rows) * -(-W // BLOCK_W) * -(-C // BLOCK_C) >= _PROGRAMS:
            return rows
    return 2


def launch(
    x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, activation: str | None, rows: int
) -> None:
    """Fill out (B, H, W, C)."""
    B, H, W, C = out.shape
    grid = (triton.cdiv(C, BLOCK_C), triton.cdiv(W, BLOCK_W), B * triton.cdiv(H, rows))
    with torch.cuda.device_of(x):
        depthwise3x3_glu_kernel[grid](
            x, weight, bias, out, H, W, C, rows, SILU=activation == "silu", BLOCK_W=BLOCK_W,
            BLOCK_C=BLOCK_C, **launch_options(), num_warps=WARPS,
        )  # fmt: skip
