"""What kernels that hold a whole row in one program share. Imports Triton, like `epilogue.py`."""

import triton
import triton.language as tl


@triton.jit
def quantize_row(x, inside, q_ptr, scale_ptr):
    """Write a row of fp32 values as int8 and its scale; columns past the end of the row hold zeros."""
    # Divisions round correctly, as the reference's do: an approximate one moves values across .5.
    scale = tl.div_rn(tl.max(tl.abs(x), axis=0), 127.0)
    broken = tl.max((x != x).to(tl.int32), axis=0)  # the maximum passes NaN over
    scale = tl.where(broken != 0, float("nan"), scale)
    q = tl.div_rn(x, tl.where(scale > 0, scale, 1.0))
    # 1.5 * 2^23 leaves a float no bits below one: adding it rounds half to even, as the reference does.
    q = (q + 12582912.0) - 12582912.0
    q = tl.minimum(tl.maximum(q, -127.0), 127.0)
    tl.store(q_ptr + tl.arange(0, x.shape[0]), q.to(tl.int8), mask=inside)
    tl.store(scale_ptr, scale)


def block_and_warps(K: int) -> tuple[int, int]:
    """Columns of a program and its warps: at most 16 values a thread up to 8192 channels."""
    block = triton.next_power_of_2(K)
    return block, min(max(block // 512, 1), 16)
