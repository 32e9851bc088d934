"""Run a program per row, which stays in registers from the residual sum to the int8 values."""

# M rows (tokens), D channels

import torch
import triton
import triton.language as tl
from torch import Tensor

from quant.kernels.dependent import launch_options
from quant.kernels.rows import block_and_warps, quantize_row
from quant.kernels.waiting import wait_for_inputs


@triton.jit
def layer_norm_modulate_kernel(
    x_ptr,  # (M, D), updated where something is added
    branch_ptr,  # (rows, D) for some of x's, or None
    gate_ptr,  # or None
    addend_ptr,  # or None
    shift_ptr,
    scale_ptr,
    smooth_ptr,  # (D,) or None
    out_ptr,  # (M, D) of x's type, or int8
    token_scale_ptr,  # (M,) or None
    D,
    eps,
    branch_first,  # row of x that takes the branch's first
    branch_rows,
    gate_rows,  # rows of x that share one row of the gate, and so on
    addend_rows,
    shift_rows,
    scale_rows,
    stride_x,
    stride_branch,
    stride_gate,
    stride_addend,
    stride_shift,
    stride_scale,
    stride_out,
    BLOCK_D: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    wait_for_inputs(DEPENDENT)
    pid = tl.program_id(0)
    row = pid.to(tl.int64)
    cols = tl.arange(0, BLOCK_D)
    inside = cols < D
    x_row = x_ptr + row * stride_x + cols
    x = tl.load(x_row, mask=inside, other=0.0).to(tl.float32)
    if branch_ptr is not None:
        of_branch = row - branch_first
        has_branch = (of_branch >= 0) & (of_branch < branch_rows)
        branch_row = branch_ptr + of_branch * stride_branch
        branch = tl.load(branch_row + cols, mask=inside & has_branch, other=0.0).to(tl.float32)
        if gate_ptr is not None:
            gate_row = gate_ptr + pid // gate_rows * stride_gate
            branch *= tl.load(gate_row + cols, mask=inside, other=0.0).to(tl.float32)
        x += branch
    if addend_ptr is not None:
        addend_row = addend_ptr + pid // addend_rows * stride_addend
        x += tl.load(addend_row + cols, mask=inside, other=0.0).to(tl.float32)
    if branch_ptr is not None or addend_ptr is not None:
        stored = x.to(x_ptr.dtype.element_ty)
        tl.store(x_row, stored, mask=inside)
        x = stored.to(tl.float32)  # what is normed is what was stored
    mean = tl.sum(x, axis=0) / D
    centred = tl.where(inside, x - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / D
    scale = tl.load(scale_ptr + pid // scale_rows * stride_scale + cols, mask=inside, other=0.0).to(
        tl.float32
    )
    shift = tl.load(shift_ptr + pid // shift_rows * stride_shift + cols, mask=inside, other=0.0).to(
        tl.float32
    )
    out = centred * tl.rsqrt(variance + eps) * (1.0 + scale) + shift
    out_row = out_ptr + row * stride_out
    if token_scale_ptr is None:
        tl.store(out_row + cols, out.to(out_ptr.dtype.element_ty), mask=inside)
    else:
        out = out.to(x_ptr.dtype.element_ty).to(tl.float32)  # what a layer would be given
        if smooth_ptr is not None:
            out *= tl.load(smooth_ptr + cols, mask=inside, other=0.0).to(tl.float32)
        quantize_row(out, inside, out_row, token_scale_ptr + row)


def launch(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    branch: Tensor | None,
    branch_first: int,
    gate: Tensor | None,
    addend: Tensor | None,
    smooth: Tensor | None,
    out: Tensor,
    token_scale: Tensor | None,
) -> None:
    """Fill out (M, D) and, if it is given, token_scale (M,); update x."""
    M, D = x.shape
    block, warps = block_and_warps(D)
    with torch.cuda.device_of(x):
        layer_norm_modulate_kernel[(M,)](
            x, branch, gate, addend, shift, scale, smooth, out, token_scale, D, eps,
            branch_first,
            0 if branch is None else len(branch),
            1 if gate is None else M // len(gate),
            1 if addend is None else M // len(addend),
            M // len(shift),
            M // len(scale),
            x.stride(0),
            0 if branch is None else branch.stride(0),
            0 if gate is None else gate.stride(0),
            0 if addend is None else addend.stride(0),
            shift.stride(0),
            scale.stride(0),
            out.stride(0),
            BLOCK_D=block,
            **launch_options(),
            num_warps=warps,
        )  # fmt: skip
