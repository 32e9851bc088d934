"""Two passes where the largest magnitude is not known: programs raise it by atomic maxima, then all quantize."""

# B pictures, V values of a picture

import torch
import triton
import triton.language as tl
from torch import Tensor

from quant.kernels.rows import magnitude_bits

BLOCK, WARPS = 4096, 4  # 32 values a thread: several 16-byte loads are under way


@triton.jit
def largest_of_map_kernel(
    x_ptr,  # (B, V)
    largest_ptr,  # (B,) bits of fp32, raised
    values,  # of a picture
    BLOCK: tl.constexpr,
):
    picture = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + picture * values + first + at, mask=at < values - first, other=0.0)
    tl.atomic_max(
        largest_ptr + picture, tl.max(magnitude_bits(x.to(tl.float32)), axis=0), sem="relaxed"
    )


@triton.jit
def quantize_map_kernel(
    x_ptr,  # (B, V)
    largest_ptr,  # (B,) fp32, or None
    scale_ptr,  # () fp32 where there are no magnitudes; else (B,), written
    q_ptr,  # (B, V)
    values,
    BLOCK: tl.constexpr,
):
    picture = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    inside = at < values - first
    if largest_ptr is None:
        scale = tl.load(scale_ptr)
    else:
        scale = tl.div_rn(tl.load(largest_ptr + picture), 127.0)
        if tl.program_id(0) == 0:
            tl.store(scale_ptr + picture, scale)
    x = tl.load(x_ptr + picture * values + first + at, mask=inside, other=0.0).to(tl.float32)
    # Correct rounding, as in `rows.py`: an approximate quotient moves values across .5.
    q = tl.div_rn(x, tl.where(scale > 0, scale, 1.0))
    q = tl.minimum(tl.maximum((q + 12582912.0) - 12582912.0, -127.0), 127.0)
    tl.store(q_ptr + picture * values + first + at, q.to(tl.int8), mask=inside)


def launch(
    x: Tensor, scale: Tensor | None, largest: Tensor | None, q: Tensor, scales: Tensor
) -> None:
    """Fill q, and `scales` (B,) where no scale is given."""
    B, values = x.shape[0], x[0].numel()
    grid = (triton.cdiv(values, BLOCK), B)
    with torch.cuda.device_of(x):
        if scale is None and largest is None:
            largest = torch.zeros(B, dtype=torch.float32, device=x.device)
            largest_of_map_kernel[grid](
                x, largest.view(torch.int32), values, BLOCK=BLOCK, num_warps=WARPS
            )
        quantize_map_kernel[grid](
            x, largest if scale is None else None, scales, q, values, BLOCK=BLOCK, num_warps=WARPS
        )
