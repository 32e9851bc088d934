"""Run a program per head and block of tokens: it makes their queries, then attends to the text in
blocks.

A head's width is rarely a power of two: 72 channels are tiles of 64 and 16, where one of 128 would
multiply zeros.
"""

# M rows (tokens) of B pictures, N of one picture, K input channels, H heads, E head width, L text tokens

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from quant.kernels.dependent import launch_options
from quant.kernels.dot import dot_type, precision
from quant.kernels.measured_tiles import capability_of
from quant.kernels.rows import divisors, quantize_tile, raise_largest, remainders
from quant.kernels.waiting import wait_for_inputs

WARPS = 4


@triton.jit
def _weight_tile(weight_ptr, es, ks, in_ks, E, stride, EVEN_K: tl.constexpr):
    """(BLOCK_K, channels) of one head; channels past its end repeat the last."""
    at = tl.minimum(es, E - 1)[None, :] * stride + ks[:, None]
    if EVEN_K:
        return tl.load(weight_ptr + at)
    return tl.load(weight_ptr + at, mask=in_ks[:, None], other=0)


@triton.jit
def _queries(sums, scale, es, E, weight_scale_ptr, bias_ptr, dtype: tl.constexpr):
    """int32 sums to queries of the type; zeros past the end of the head."""
    inside = es < E
    out = sums.to(tl.float32) * scale[:, None]
    out *= tl.load(weight_scale_ptr + es, mask=inside, other=0.0)[None, :]
    if bias_ptr is not None:
        out += tl.load(bias_ptr + es, mask=inside, other=0.0).to(tl.float32)[None, :]
    return tl.where(inside[None, :], out, 0.0).to(dtype)


@triton.jit
def _store(sums, total, es, E, out_tile, in_rows, largest_ptrs):
    inside = in_rows[:, None] & (es < E)[None, :]
    out = (sums / total[:, None]).to(out_tile.dtype.element_ty)
    tl.store(out_tile + es[None, :], out, mask=inside)
    if largest_ptrs is not None:
        raise_largest(out.to(tl.float32), inside, largest_ptrs, in_rows)


@triton.jit
def cross_attention_kernel(
    x_ptr,  # (M, K), or queries (M, H * E) where there is no weight
    x_largest_ptr,  # (M,) or None
    weight_ptr,  # (H * E, K) int8 or None
    weight_scale_ptr,
    bias_ptr,  # (H * E,) or None
    smooth_ptr,  # (K,) or None
    key_ptr,  # (B, H, L, E)
    value_ptr,
    mask_ptr,  # (B, L) or None
    out_ptr,  # (M, H * E)
    largest_ptr,  # (M,) bits of fp32 or None
    N,
    K,
    L,
    E,
    to_exponents,  # 1 / sqrt(E), and of two
    stride_x,
    stride_weight,
    stride_key_picture,
    stride_key_head,
    stride_key_token,
    stride_value_picture,
    stride_value_head,
    stride_value_token,
    stride_mask,
    stride_out,
    DOT: tl.constexpr,  # type of the inputs of attention's products
    PRECISION: tl.constexpr,  # of fp32 inputs
    REMAINDERS: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_A: tl.constexpr,  # the head's first channels
    BLOCK_B: tl.constexpr,  # and the others, if any
    DEPENDENT: tl.constexpr,
):
    wait_for_inputs(DEPENDENT)
    head = tl.program_id(0)
    block = tl.program_id(1)
    picture = tl.program_id(2).to(tl.int64)
    first = picture * N + block * BLOCK_M
    rows = tl.arange(0, BLOCK_M)
    in_rows = rows < N - block * BLOCK_M
    read_rows = tl.minimum(rows, N - block * BLOCK_M - 1)
    a = tl.arange(0, BLOCK_A)
    if BLOCK_B:
        b = BLOCK_A + tl.arange(0, BLOCK_B)
    x_rows = x_ptr + first * stride_x + read_rows[:, None] * stride_x
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    if weight_ptr is None:
        q_a = tl.load(x_rows + (head * E + a)[None, :], mask=(a < E)[None, :], other=0.0)
        if BLOCK_B:
            q_b = tl.load(x_rows + (head * E + b)[None, :], mask=(b < E)[None, :], other=0.0)
    else:
        weight_ptr += head.to(tl.int64) * E * stride_weight
        lift, divisor, inverse = divisors(tl.load(x_largest_ptr + first + read_rows))
        sums_a = tl.zeros((BLOCK_M, BLOCK_A), dtype=tl.int32)
        if BLOCK_B:
            sums_b = tl.zeros((BLOCK_M, BLOCK_B), dtype=tl.int32)
        for k in range(0, K, BLOCK_K):
            ks = k + tl.arange(0, BLOCK_K)
            in_ks = ks < K
            if EVEN_K:
                x = tl.load(x_rows + ks[None, :])
            else:
                x = tl.load(x_rows + ks[None, :], mask=in_ks[None, :], other=0.0)
            if smooth_ptr is not None:
                x = x.to(tl.float32) * tl.load(smooth_ptr + ks, mask=in_ks, other=0.0).to(
                    tl.float32
                )
            x = quantize_tile(x, lift, divisor, inverse, REMAINDERS)
            w_a = _weight_tile(weight_ptr, a, ks, in_ks, E, stride_weight, EVEN_K)
            sums_a = tl.dot(x, w_a, sums_a, out_dtype=tl.int32)
            if BLOCK_B:
                w_b = _weight_tile(weight_ptr, b, ks, in_ks, E, stride_weight, EVEN_K)
                sums_b = tl.dot(x, w_b, sums_b, out_dtype=tl.int32)
        scale = tl.div_rn(tl.load(x_largest_ptr + first + read_rows), 127.0)
        weight_scale_ptr += head * E
        if bias_ptr is not None:
            bias_ptr += head * E
        q_a = _queries(sums_a, scale, a, E, weight_scale_ptr, bias_ptr, dtype)
        if BLOCK_B:
            q_b = _queries(sums_b, scale, b, E, weight_scale_ptr, bias_ptr, dtype)
    key_ptr += picture * stride_key_picture + head * stride_key_head
    value_ptr += picture * stride_value_picture + head * stride_value_head
    highest = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    out_a = tl.zeros((BLOCK_M, BLOCK_A), dtype=tl.float32)
    if BLOCK_B:
        out_b = tl.zeros((BLOCK_M, BLOCK_B), dtype=tl.float32)
    for start in range(0, L, BLOCK_L):
        at = start + tl.arange(0, BLOCK_L)
        in_text = at < L
        key = key_ptr + at[None, :] * stride_key_token
        k_a = tl.load(key + a[:, None], mask=(a < E)[:, None] & in_text[None, :], other=0.0)
        scores = tl.dot(q_a.to(DOT), k_a.to(DOT), input_precision=PRECISION)
        if BLOCK_B:
            k_b = tl.load(key + b[:, None], mask=(b < E)[:, None] & in_text[None, :], other=0.0)
            scores = tl.dot(q_b.to(DOT), k_b.to(DOT), scores, input_precision=PRECISION)
        seen = in_text
        if mask_ptr is not None:
            seen &= tl.load(mask_ptr + picture * stride_mask + at, mask=in_text, other=0) != 0
        scores = tl.where(seen[None, :], scores * to_exponents, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # no real token in these blocks
        shares = tl.exp2(scores - shift[:, None])
        shrink = tl.exp2(highest - shift)
        highest = higher
        total = total * shrink + tl.sum(shares, axis=1)
        shares = shares.to(DOT)
        value = value_ptr + at[:, None] * stride_value_token
        v_a = tl.load(value + a[None, :], mask=in_text[:, None] & (a < E)[None, :], other=0.0)
        out_a = tl.dot(shares, v_a.to(DOT), out_a * shrink[:, None], input_precision=PRECISION)
        if BLOCK_B:
            v_b = tl.load(value + b[None, :], mask=in_text[:, None] & (b < E)[None, :], other=0.0)
            out_b = tl.dot(shares, v_b.to(DOT), out_b * shrink[:, None], input_precision=PRECISION)
    out_tile = out_ptr + first * stride_out + rows[:, None] * stride_out + head * E
    largest_ptrs = None
    if largest_ptr is not None:
        largest_ptrs = largest_ptr + first + rows
    _store(out_a, total, a, E, out_tile, in_rows, largest_ptrs)
    if BLOCK_B:
        _store(out_b, total, b, E, out_tile, in_rows, largest_ptrs)


def steps(dtype: torch.dtype) -> tuple[int, int, int, int]:
    """Tokens of a program, input channels and text tokens of a step, and steps in flight."""
    return (32, 32, 16, 3) if dtype == torch.float32 else (64, 64, 32, 4)


def blocks(E: int) -> tuple[int, int]:
    """Channels of the two tiles that hold a head; the second may be 0."""
    first = max(2 ** int(math.log2(E)), 16)
    return first, max(triton.next_power_of_2(E - first), 16) if E > first else 0


def warps_for(E: int, capability: tuple[int, int] | None) -> int:
    """Return the warps of a program. On 10.0 the sums leave tensor memory all at once: for two tiles of 64 channels they are
    128 registers of each of 128 threads, two more than the compiler has.
    """
    return 2 * WARPS if capability is not None and capability[0] == 10 and E > 96 else WARPS


def launch(
    x: Tensor,
    largest: Tensor | None,
    weight: Tensor | None,
    weight_scale: Tensor | None,
    bias: Tensor | None,
    smooth: Tensor | None,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    out: Tensor,
    out_largest: Tensor | None,
) -> None:
    """Fill out (M, H * E); raise `out_largest` (M,)."""
    B, H, L, E = keys.shape
    N, K = len(x) // B, x.shape[1]
    (block_m, block_k, block_l, stages), (block_a, block_b) = steps(x.dtype), blocks(E)
    with torch.cuda.device_of(x):
        cross_attention_kernel[(H, triton.cdiv(N, block_m), B)](
            x, largest, weight, weight_scale, bias, smooth, keys, values, mask, out,
            None if out_largest is None else out_largest.view(torch.int32),
            N, K, L, E, E**-0.5 * math.log2(math.e),
            x.stride(0),
            0 if weight is None else weight.stride(0),
            *keys.stride()[:3],
            *values.stride()[:3],
            0 if mask is None else mask.stride(0),
            out.stride(0),
            DOT=dot_type(x.dtype),
            PRECISION=precision(),
            REMAINDERS=remainders(x, smooth),
            EVEN_K=K % block_k == 0,
            BLOCK_M=block_m,
            BLOCK_K=block_k,
            BLOCK_L=block_l,
            BLOCK_A=block_a,
            BLOCK_B=block_b,
            **launch_options(),
            num_warps=warps_for(E, capability_of(x.device)),
            num_stages=stages,
        )  # fmt: skip
