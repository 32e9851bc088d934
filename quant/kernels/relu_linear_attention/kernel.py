"""Run a program per head: it sums keys and values of all positions, then attends to the sums in
registers.

Sana has 36 or 70 heads a picture and two pictures a step. Splitting the positions over more
programs would need a second launch and a sum over the parts.
"""

# B batch, N positions, H heads, E head width

import torch
import triton
import triton.language as tl
from torch import Tensor

from quant.kernels.dot import dot_type

WARPS, STAGES = 8, 3


def block_n(dtype: torch.dtype) -> int:
    """Positions of one step: as many as leave three steps in flight without spilling registers."""
    return 64 if dtype == torch.float32 else 128


@triton.jit
def _relu(x):
    """NaN stays NaN."""
    return tl.maximum(x.to(tl.float32), 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def relu_linear_attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    N,
    H,
    E,
    eps,
    stride_q_picture,
    stride_q_token,
    stride_q_head,
    stride_k_picture,
    stride_k_token,
    stride_k_head,
    stride_v_picture,
    stride_v_token,
    stride_v_head,
    DOT: tl.constexpr,  # type of the first product's inputs
    NARROW: tl.constexpr,  # q has no more bits than tf32
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    picture = (tl.program_id(0) // H).to(tl.int64)
    head = (tl.program_id(0) % H).to(tl.int64)
    tokens = tl.arange(0, BLOCK_N)
    es = tl.arange(0, BLOCK_E)
    k_tile = k_ptr + picture * stride_k_picture + head * stride_k_head + es[None, :]
    v_tile = v_ptr + picture * stride_v_picture + head * stride_v_head + es[None, :]
    sums = tl.zeros((BLOCK_E, BLOCK_E), dtype=tl.float32)  # of keys (rows) times values (columns)
    key_sum = tl.zeros((BLOCK_E,), dtype=tl.float32)
    for start in range(0, N, BLOCK_N):
        at = (start + tokens).to(tl.int64)[:, None]
        inside = (start + tokens < N)[:, None] & (es < E)[None, :]
        k = _relu(tl.load(k_tile + at * stride_k_token, mask=inside, other=0.0))
        v = tl.load(v_tile + at * stride_v_token, mask=inside, other=0.0)
        key_sum += tl.sum(k, axis=0)
        sums = tl.dot(tl.trans(k.to(DOT)), v.to(DOT), sums, input_precision="tf32x3")
    q_tile = q_ptr + picture * stride_q_picture + head * stride_q_head + es[None, :]
    out_tile = out_ptr + (picture * N * H + head) * E + es[None, :]
    high = (sums.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)  # tf32's bits
    for start in range(0, N, BLOCK_N):
        at = (start + tokens).to(tl.int64)[:, None]
        inside = (start + tokens < N)[:, None] & (es < E)[None, :]
        q = _relu(tl.load(q_tile + at * stride_q_token, mask=inside, other=0.0))
        if NARROW:
            # q is exact in tf32, and two of its numbers hold 22 bits of a sum.
            out = tl.dot(q, sums - high, input_precision="tf32")
            out = tl.dot(q, high, out, input_precision="tf32")
        else:
            out = tl.dot(q, sums, input_precision="tf32x3")
        out = out / (tl.sum(q * key_sum[None, :], axis=1)[:, None] + eps)
        tl.store(out_tile + at * (H * E), out.to(out_ptr.dtype.element_ty), mask=inside)


def launch(q: Tensor, k: Tensor, v: Tensor, out: Tensor, eps: float) -> None:
    """Fill out (B, N, H, E)."""
    B, N, H, E = q.shape
    with torch.cuda.device_of(q):
        relu_linear_attention_kernel[(B * H,)](
            q, k, v, out, N, H, E, eps, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
            DOT=dot_type(q.dtype),
            NARROW=q.dtype != torch.float32,
            BLOCK_N=block_n(q.dtype),
            BLOCK_E=max(triton.next_power_of_2(E), 16),
            num_warps=WARPS,
            num_stages=STAGES,
        )  # fmt: skip
