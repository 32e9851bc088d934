"""Run a program per row: the row is read once and stays in registers for both passes."""

# M rows (tokens), K input channels

import torch
import triton
import triton.language as tl
from torch import Tensor

from quant.kernels.dependent import launch_options
from quant.kernels.rows import block_and_warps, quantize_row
from quant.kernels.waiting import wait_for_inputs


@triton.jit
def quantize_per_token_kernel(
    x_ptr,  # (M, K), updated where something is added
    branch_ptr,  # (M, K) or None
    gate_ptr,
    smooth_ptr,  # (K,) or None
    q_ptr,
    scale_ptr,
    K,
    gate_rows,  # rows of x that share one row of the gate
    stride_x,
    stride_branch,
    stride_gate,
    stride_q,
    BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    wait_for_inputs(DEPENDENT)
    pid = tl.program_id(0)
    row = pid.to(tl.int64)
    cols = tl.arange(0, BLOCK_K)
    inside = cols < K
    x_row = x_ptr + row * stride_x + cols
    x = tl.load(x_row, mask=inside, other=0.0).to(tl.float32)
    if branch_ptr is not None:
        branch = tl.load(branch_ptr + row * stride_branch + cols, mask=inside, other=0.0)
        gate_row = gate_ptr + pid // gate_rows * stride_gate
        x += branch.to(tl.float32) * tl.load(gate_row + cols, mask=inside, other=0.0).to(tl.float32)
        stored = x.to(x_ptr.dtype.element_ty)
        tl.store(x_row, stored, mask=inside)
        x = stored.to(tl.float32)  # what is quantized is what was stored
    if smooth_ptr is not None:
        x *= tl.load(smooth_ptr + cols, mask=inside, other=0.0).to(tl.float32)
    quantize_row(x, inside, q_ptr + row * stride_q, scale_ptr + row)


def launch(
    x: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    smooth: Tensor | None,
    q: Tensor,
    scale: Tensor,
) -> None:
    """Fill q (M, K) and scale (M,); update x."""
    M, K = x.shape
    block, warps = block_and_warps(K)
    with torch.cuda.device_of(x):
        quantize_per_token_kernel[(M,)](
            x, branch, gate, smooth, q, scale, K,
            1 if gate is None else M // len(gate),
            x.stride(0),
            0 if branch is None else branch.stride(0),
            0 if gate is None else gate.stride(0),
            q.stride(0),
            BLOCK_K=block,
            **launch_options(),
            num_warps=warps,
        )  # fmt: skip
