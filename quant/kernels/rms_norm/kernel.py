"""A program norms one part of a few rows: a pixel of DC-AE has as few as 128 channels."""

# M rows (tokens or pixels), P parts of a row, D channels

import torch
import triton
import triton.language as tl
from torch import Tensor

from quant.kernels.dependent import launch_options
from quant.kernels.rows import block_and_warps, magnitude_bits
from quant.kernels.waiting import wait_for_inputs

_VALUES = 2048  # of a program at least: 16 values for each of 128 threads


@triton.jit
def rms_norm_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,  # (P, D) or None
    residual_ptr,  # (M, P, D) or None
    out_ptr,
    largest_ptr,  # (M // picture_rows,) bits of fp32, raised to the largest magnitudes of pictures; or None
    M,
    D,
    picture_rows,
    eps,
    stride_x_row,
    stride_x_part,
    stride_weight,
    stride_bias,
    stride_residual_row,
    stride_residual_part,
    stride_out_row,
    stride_out_part,
    RELU: tl.constexpr,
    ONE_PICTURE: tl.constexpr,  # no program holds rows of two
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    wait_for_inputs(DEPENDENT)
    part = tl.program_id(1)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, BLOCK_D)[None, :]
    in_cols = cols < D
    inside = (rows < M) & in_cols
    x = tl.load(
        x_ptr + rows * stride_x_row + part * stride_x_part + cols, mask=inside, other=0.0
    ).to(tl.float32)
    rms = tl.sqrt(tl.sum(x * x, axis=1) / D + eps)
    weight = tl.load(weight_ptr + part * stride_weight + cols, mask=in_cols, other=0.0)
    out = x / rms[:, None] * weight.to(tl.float32)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + part * stride_bias + cols, mask=in_cols, other=0.0)
        out += bias.to(tl.float32)
    if RELU:
        out = tl.maximum(out, 0.0, propagate_nan=tl.PropagateNan.ALL)
    if residual_ptr is not None:
        at = rows * stride_residual_row + part * stride_residual_part + cols
        out += tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
    at = rows * stride_out_row + part * stride_out_part + cols
    stored = out.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + at, stored, mask=inside)
    if largest_ptr is not None:
        bits = tl.max(magnitude_bits(tl.where(inside, stored.to(tl.float32), 0.0)), axis=1)
        if ONE_PICTURE:
            picture = tl.program_id(0).to(tl.int64) * ROWS // picture_rows
            tl.atomic_max(largest_ptr + picture, tl.max(bits, axis=0), sem="relaxed")
        else:
            of_rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
            tl.atomic_max(
                largest_ptr + of_rows // picture_rows, bits, mask=of_rows < M, sem="relaxed"
            )


def rows_block_and_warps(D: int) -> tuple[int, int, int]:
    """Rows of a program, its columns, its warps."""
    block, warps = block_and_warps(D)
    return max(_VALUES // block, 1), block, max(warps, 4)


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    largest: Tensor | None,
    eps: float,
    activation: str | None,
) -> None:
    """Fill out (M, P, D); raise `largest` (B,)."""
    M, P, D = x.shape
    picture_rows = M if largest is None else M // len(largest)
    rows, block, warps = rows_block_and_warps(D)
    with torch.cuda.device_of(x):
        rms_norm_kernel[(triton.cdiv(M, rows), P)](
            x, weight, bias, residual, out,
            None if largest is None else largest.view(torch.int32),
            M, D, picture_rows, eps, *x.stride()[:2],
            weight.stride(0),
            0 if bias is None else bias.stride(0),
            *((0, 0) if residual is None else residual.stride()[:2]),
            *out.stride()[:2],
            RELU=activation == "relu",
            ONE_PICTURE=picture_rows in (M, 0) or picture_rows % rows == 0,
            ROWS=rows,
            BLOCK_D=block,
            **launch_options(),
            num_warps=warps,
        )  # fmt: skip
