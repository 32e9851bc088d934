"""Run a program per row: the row is read once and stays in registers for both passes."""

# M rows (tokens), K input channels

import torch
import triton
import triton.language as tl
from torch import Tensor

from quant.kernels.rows import block_and_warps, quantize_row


@triton.jit
def quantize_per_token_kernel(
    x_ptr, smooth_ptr, q_ptr, scale_ptr, K, stride_x, stride_q, BLOCK_K: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_K)
    inside = cols < K
    x = tl.load(x_ptr + row * stride_x + cols, mask=inside, other=0.0).to(tl.float32)
    if smooth_ptr is not None:
        x *= tl.load(smooth_ptr + cols, mask=inside, other=0.0).to(tl.float32)
    quantize_row(x, inside, q_ptr + row * stride_q, scale_ptr + row)


def launch(x: Tensor, smooth: Tensor | None, q: Tensor, scale: Tensor) -> None:
    """Fill q (M, K) and scale (M,)."""
    M, K = x.shape
    block, warps = block_and_warps(K)
    with torch.cuda.device_of(x):
        quantize_per_token_kernel[(M,)](
            x, smooth, q, scale, K, x.stride(0), q.stride(0), BLOCK_K=block, num_warps=warps
        )
