"""Run a program per head and block of new tokens: it rotates them, then walks over the cache and over the new keys, which it
rotates as it reads them.
"""

# L new tokens, S tokens of the cache, H heads, K key-value heads, E head width

import torch
import triton
import triton.language as tl
from torch import Tensor

from quant.kernels.dependent import launch_options
from quant.kernels.dot import dot_type, precision
from quant.kernels.waiting import wait_for_inputs

BLOCK_L = 16
_EVERY = 2**30  # a window that holds all


def step(dtype: torch.dtype) -> tuple[int, int, int]:
    """Keys of a step, warps, and steps in flight."""
    return (16, 8, 2) if dtype == torch.float32 else (32, 4, 2)


@triton.jit
def _rotated(tile, rows, in_rows, stride, cos_ptr, sin_ptr, E: tl.constexpr):
    """(rows, E) of tokens, rotated by their positions and rounded to their type."""
    es = tl.arange(0, E)
    others = (es + E // 2) % E
    inside = in_rows[:, None]
    x = tl.load(tile + rows[:, None] * stride + es[None, :], mask=inside, other=0.0)
    other = tl.load(tile + rows[:, None] * stride + others[None, :], mask=inside, other=0.0)
    at = rows[:, None] * E + es[None, :]
    cos = tl.load(cos_ptr + at, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + at, mask=inside, other=0.0).to(tl.float32)
    other = tl.where((es < E // 2)[None, :], -other.to(tl.float32), other.to(tl.float32))
    return (x.to(tl.float32) * cos + other * sin).to(tile.dtype.element_ty)


@triton.jit
def _attend(
    q,
    k,  # (keys, E)
    v,
    distance,  # of each key before each query
    in_keys,
    highest,
    total,
    out,
    scale,
    cap,
    window,
    CAPPED: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Take in one step of keys; returns the highest scores, the sums of shares and of values until now."""
    scores = tl.dot(q.to(DOT), tl.trans(k).to(DOT), input_precision=PRECISION) * scale
    if CAPPED:
        scores = cap * (2.0 * tl.sigmoid(2.0 * scores / cap) - 1.0)  # tanh
    seen = in_keys[None, :] & (distance >= 0) & (distance < window)
    scores = tl.where(seen, scores * 1.4426950408889634, float("-inf"))  # exponents of two
    higher = tl.maximum(highest, tl.max(scores, axis=1))
    shift = tl.where(higher == float("-inf"), 0.0, higher)  # none of these is seen
    shares = tl.exp2(scores - shift[:, None])
    shrink = tl.exp2(highest - shift)
    total = total * shrink + tl.sum(shares, axis=1)
    out = tl.dot(shares.to(DOT), v.to(DOT), out * shrink[:, None], input_precision=PRECISION)
    return higher, total, out


@triton.jit
def softcap_attention_kernel(
    q_ptr,  # (L, H * E)
    k_ptr,  # (L, K * E)
    v_ptr,
    past_k_ptr,  # (K, S, E)
    past_v_ptr,
    cos_ptr,  # (L, E)
    sin_ptr,
    out_ptr,  # (L, H * E)
    L,
    S,
    group,  # heads that share a key-value head
    scale,
    cap,
    window,
    stride_q,
    stride_k,
    stride_v,
    stride_past_k_head,
    stride_past_k_token,
    stride_past_v_head,
    stride_past_v_token,
    stride_out,
    CAPPED: tl.constexpr,
    DOT: tl.constexpr,  # type of the inputs of products
    PRECISION: tl.constexpr,  # of fp32 inputs
    E: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_S: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    wait_for_inputs(DEPENDENT)
    head = tl.program_id(0)
    shared = head // group
    es = tl.arange(0, E)[None, :]
    rows = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)
    in_rows = rows < L
    q = _rotated(q_ptr + head * E, rows, in_rows, stride_q, cos_ptr, sin_ptr, E)
    highest = tl.full((BLOCK_L,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_L,), dtype=tl.float32)
    out = tl.zeros((BLOCK_L, E), dtype=tl.float32)
    past_k = past_k_ptr + shared.to(tl.int64) * stride_past_k_head + es
    past_v = past_v_ptr + shared.to(tl.int64) * stride_past_v_head + es
    for start in range(0, S, BLOCK_S):
        keys = start + tl.arange(0, BLOCK_S)
        in_keys = keys < S
        inside = in_keys[:, None]
        k = tl.load(past_k + keys[:, None] * stride_past_k_token, mask=inside, other=0.0)
        v = tl.load(past_v + keys[:, None] * stride_past_v_token, mask=inside, other=0.0)
        distance = (S + rows)[:, None] - keys[None, :]
        highest, total, out = _attend(
            q, k, v, distance, in_keys, highest, total, out, scale, cap, window, CAPPED, DOT, PRECISION
        )  # fmt: skip
    # A few steps, of many tensors: loaded ahead they would take more shared memory than there is.
    for start in tl.range(
        0, tl.minimum(L, (tl.program_id(1) + 1) * BLOCK_L), BLOCK_S, num_stages=1
    ):
        keys = start + tl.arange(0, BLOCK_S)
        in_keys = keys < L
        k = _rotated(k_ptr + shared * E, keys, in_keys, stride_k, cos_ptr, sin_ptr, E)
        at = v_ptr + shared * E + keys[:, None] * stride_v + es
        v = tl.load(at, mask=in_keys[:, None], other=0.0)
        distance = rows[:, None] - keys[None, :]
        highest, total, out = _attend(
            q, k, v, distance, in_keys, highest, total, out, scale, cap, window, CAPPED, DOT, PRECISION
        )  # fmt: skip
    out_tile = out_ptr + head * E + rows[:, None] * stride_out + es
    tl.store(out_tile, (out / total[:, None]).to(out_ptr.dtype.element_ty), mask=in_rows[:, None])


def launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_k: Tensor,
    past_v: Tensor,
    cos: Tensor,
    sin: Tensor,
    out: Tensor,
    scale: float,
    cap: float | None,
    window: int | None,
) -> None:
    """Fill out (L, H * E)."""
    (K, S, E), L = past_k.shape, len(q)
    heads = q.shape[1] // E
    block_s, warps, stages = step(q.dtype)
    with torch.cuda.device_of(q):
        softcap_attention_kernel[(heads, triton.cdiv(L, BLOCK_L))](
            q, k, v, past_k, past_v, cos.contiguous(), sin.contiguous(), out, L, S, heads // K, scale,
            1.0 if cap is None else cap,
            _EVERY if window is None else window,
            q.stride(0),
            k.stride(0),
            v.stride(0),
            *past_k.stride()[:2],
            *past_v.stride()[:2],
            out.stride(0),
            CAPPED=cap is not None,
            DOT=dot_type(q.dtype),
            PRECISION=precision(),
            E=E,
            BLOCK_L=BLOCK_L,
            BLOCK_S=block_s,
            **launch_options(),
            num_warps=warps,
            num_stages=stages,
        )  # fmt: skip
