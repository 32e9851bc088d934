"""One program a row: the row is read once and stays in registers for both passes."""

# M rows (tokens), K input channels

import torch
import triton
import triton.language as tl
from torch import Tensor


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
    # Divisions round correctly, as the reference's do: an approximate one moves values across .5.
    scale = tl.div_rn(tl.max(tl.abs(x), axis=0), 127.0)
    broken = tl.max((x != x).to(tl.int32), axis=0)  # the maximum passes NaN over
    scale = tl.where(broken != 0, float("nan"), scale)
    q = tl.div_rn(x, tl.where(scale > 0, scale, 1.0))
    # 1.5 * 2^23 leaves a float no bits below one: adding it rounds half to even, as the reference does.
    q = (q + 12582912.0) - 12582912.0
    q = tl.minimum(tl.maximum(q, -127.0), 127.0)
    tl.store(q_ptr + row * stride_q + cols, q.to(tl.int8), mask=inside)
    tl.store(scale_ptr + row, scale)


def block_and_warps(K: int) -> tuple[int, int]:
    """Columns of a program and its warps: at most 16 values a thread up to 8192 channels."""
    block = triton.next_power_of_2(K)
    return block, min(max(block // 512, 1), 16)


def launch(x: Tensor, smooth: Tensor | None, q: Tensor, scale: Tensor) -> None:
    """Fill q (M, K) and scale (M,)."""
    M, K = x.shape
    block, warps = block_and_warps(K)
    with torch.cuda.device_of(x):
        quantize_per_token_kernel[(M,)](
            x, smooth, q, scale, K, x.stride(0), q.stride(0), BLOCK_K=block, num_warps=warps
        )
