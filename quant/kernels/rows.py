"""Quantize rows to int8: whole rows inside one program, or tiles of rows whose largest magnitudes
are known.

Imports Triton, like `epilogue.py`.
"""

import torch
import triton
import triton.language as tl

from quant.kernels.checks import interpreted


@triton.jit
def round_to_integers(x):
    """Half to even, as the reference does: 1.5 * 2^23 leaves a float no bits below one."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def round_to_e4m3(x):
    """fp32 values that e4m3 holds, half to even, so that casting them changes nothing.

    A device's cast would round as well; the interpreter's loses the carry into the exponent and bits of subnormal values.
    """
    bits = x.to(tl.int32, bitcast=True)
    bits = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000  # three bits of fraction are left
    normal = bits.to(tl.float32, bitcast=True)
    subnormal = (x + 24576.0) - 24576.0  # 1.5 * 2^14: steps of 2^-9
    return tl.where(tl.abs(x) < 0.015625, subnormal, normal)


@triton.jit
def quantize_row(x, inside, q_ptr, scale_ptr):
    """Write a row of fp32 values as int8 or e4m3 and its scale; columns past the end of the row hold zeros."""
    HIGHEST: tl.constexpr = 127.0 if q_ptr.dtype.element_ty == tl.int8 else 448.0
    # Divisions round correctly, as the reference's do: an approximate one moves values across .5.
    scale = tl.div_rn(tl.max(tl.abs(x), axis=0), HIGHEST)
    broken = tl.max((x != x).to(tl.int32), axis=0)  # the maximum passes NaN over
    scale = tl.where(broken != 0, float("nan"), scale)
    q = tl.div_rn(x, tl.where(scale > 0, scale, 1.0))
    q = round_to_integers(q) if HIGHEST == 127.0 else round_to_e4m3(q)
    q = tl.minimum(tl.maximum(q, -HIGHEST), HIGHEST)
    tl.store(q_ptr + tl.arange(0, x.shape[0]), q.to(q_ptr.dtype.element_ty), mask=inside)
    tl.store(scale_ptr, scale)


@triton.jit
def magnitude_bits(x):
    """The bits of |x|, fp32, which order as the numbers do; NaN's are above any number's."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def raise_largest(x, inside, largest_ptrs, in_rows):
    """Raise the largest magnitudes of rows, as bits, to those of a tile in fp32."""
    of_rows = tl.max(tl.where(inside, magnitude_bits(x), 0), axis=1)
    tl.atomic_max(largest_ptrs, of_rows, mask=in_rows, sem="relaxed")


@triton.jit
def divisors(largest):
    """Return the divisors that `quantize_tile` needs for rows with these largest magnitudes."""
    scale = tl.div_rn(largest, 127.0)
    # Powers of two change no quotient; without them an inverse may be infinite and a remainder too small.
    lift = tl.where(largest < 1e-20, 1.2676506002282294e30, 1.0)  # 2^100
    divisor = tl.where(scale > 0, scale, 1.0) * lift
    return lift, divisor, tl.div_rn(1.0, divisor)


@triton.jit
def quantize_tile(x, lift, divisor, inverse, REMAINDERS: tl.constexpr):
    """int8 of a tile (rows, columns), as `quantize_row` makes them of a row.

    A quotient's remainder is exact, and mends it: one is enough for values of at most 11 bits
    (tests/unit/kernels/test_rows.py tries them all), two for any (Markstein, IBM J. Res. Dev. 34, 1990).
    """
    x = x.to(tl.float32) * lift[:, None]
    if REMAINDERS == 0:
        q = tl.div_rn(x, divisor[:, None])
    else:
        q = x * inverse[:, None]
        for _ in tl.static_range(REMAINDERS):
            q = tl.fma(tl.fma(q, -divisor[:, None], x), inverse[:, None], q)
    # The integer's two's complement is in the sum's lowest bits; nothing is beyond 127 times its scale.
    q = (q + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
    if REMAINDERS != 0:
        # Nothing, but what the compiler cannot see through: else it moves the quotients after the exchange
        # between threads, where two or four warps would compute each of them.
        q = tl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r", [q], dtype=tl.int8, is_pure=False, pack=4
        )
    return q


def remainders(x: torch.Tensor, smooth: torch.Tensor | None = None) -> int:
    """Return how many remainders `quantize_tile` needs for x, or x * smooth; none under the
    interpreter and on AMD's devices.

    The interpreter rounds between a product and a sum, and produces no machine code; the barrier is one of NVIDIA's.
    """
    if interpreted() or torch.version.hip is not None:
        return 0
    return 1 if smooth is None and x.dtype in (torch.bfloat16, torch.float16) else 2


def block_and_warps(K: int) -> tuple[int, int]:
    """Columns of a program and its warps: at most 16 values a thread up to 8192 channels."""
    block = triton.next_power_of_2(K)
    return block, min(max(block // 512, 1), 16)
