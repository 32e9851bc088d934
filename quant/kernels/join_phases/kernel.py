"""A program writes some pixels of one phase, so that it reads one of the four tensors."""

# B batch, H x W positions before up-sampling, K channels before it, N after it

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_VALUES, WARPS = 4096, 4  # of a program: 32 a thread


@triton.jit
def join_phases_kernel(
    phase0_ptr,
    phase1_ptr,
    phase2_ptr,
    phase3_ptr,
    bias_ptr,  # (N,) or None
    shortcut_ptr,  # (B, H, W, K) or None
    out_ptr,  # (B, 2H, 2W, N)
    positions,  # B * H * W
    H,
    W,
    K,
    N,
    REPEATS: tl.constexpr,  # 4 * N / K; 0 without a shortcut
    POSITIONS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    phase = tl.program_id(1)
    i = phase // 2
    j = phase % 2
    phase_ptr = phase0_ptr
    if phase == 1:
        phase_ptr = phase1_ptr
    if phase == 2:
        phase_ptr = phase2_ptr
    if phase == 3:
        phase_ptr = phase3_ptr
    at = tl.program_id(0).to(tl.int64) * POSITIONS + tl.arange(0, POSITIONS)
    x = at % W
    y = at // W % H
    picture = at // (H * W)
    source = ((picture * (H + 1) + y + i) * (W + 1) + x + j) * N
    target = ((picture * 2 * H + 2 * y + i) * 2 * W + 2 * x + j) * N
    in_positions = (at < positions)[:, None]
    for start in range(0, N, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        inside = in_positions & (cols < N)[None, :]
        out = tl.load(phase_ptr + source[:, None] + cols[None, :], mask=inside, other=0.0)
        out = out.to(tl.float32)
        if bias_ptr is not None:
            bias = tl.load(bias_ptr + cols, mask=cols < N, other=0.0)
            out += bias.to(tl.float32)[None, :]
        if REPEATS:
            of_shortcut = (4 * cols + phase) // REPEATS
            shortcut = tl.load(
                shortcut_ptr + at[:, None] * K + of_shortcut[None, :], mask=inside, other=0.0
            )
            out += shortcut.to(tl.float32)
        tl.store(
            out_ptr + target[:, None] + cols[None, :], out.to(out_ptr.dtype.element_ty), mask=inside
        )


def positions_and_block(N: int) -> tuple[int, int]:
    """Positions of a program, and channels of one step of it."""
    block = min(triton.next_power_of_2(N), 512)
    return max(_VALUES // block, 1), block


def launch(
    phases: Sequence[Tensor], bias: Tensor | None, shortcut: Tensor | None, out: Tensor
) -> None:
    """Fill out (B, 2H, 2W, N)."""
    B, H, W, N = out.shape[0], out.shape[1] // 2, out.shape[2] // 2, out.shape[3]
    K = 0 if shortcut is None else shortcut.shape[3]
    positions, block = positions_and_block(N)
    with torch.cuda.device_of(out):
        join_phases_kernel[(triton.cdiv(B * H * W, positions), 4)](
            *phases, bias, shortcut, out, B * H * W, H, W, K, N, REPEATS=4 * N // K if K else 0,
            POSITIONS=positions, BLOCK_N=block, num_warps=WARPS,
        )  # fmt: skip
