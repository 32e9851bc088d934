"""A program takes consecutive values: rows lie one after the other."""

# M rows (pixels or tokens), C channels

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, WARPS = 4096, 4  # 32 values a thread: several 16-byte loads are under way


@triton.jit
def bias_activation_kernel(
    x_ptr,  # (M, C), updated
    bias_ptr,  # (C,) or None
    values,  # M * C
    C,
    SILU: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    inside = at < values - first
    x = tl.load(x_ptr + first + at, mask=inside, other=0.0).to(tl.float32)
    if bias_ptr is not None:
        column = ((first % C).to(tl.int32) + at) % C
        x += tl.load(bias_ptr + column).to(tl.float32)
    if SILU:
        x *= tl.sigmoid(x)
    if RELU:
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(x_ptr + first + at, x.to(x_ptr.dtype.element_ty), mask=inside)


def launch(x: Tensor, bias: Tensor | None, activation: str | None) -> None:
    """Update x (M, C)."""
    with torch.cuda.device_of(x):
        bias_activation_kernel[(triton.cdiv(x.numel(), BLOCK),)](
            x, bias, x.numel(), x.shape[1], SILU=activation == "silu", RELU=activation == "relu",
            BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
