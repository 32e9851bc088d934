"""Sum keys and values over all positions of a head, then attend to the sums.

Small maps take one launch, a program a head: the sums stay in its registers. For larger ones, two launches share a head's positions
among several programs; the second adds up the parts of the first, in order, so that results do not depend on the device.
"""

# B batch, N positions, H heads, E head width

import torch
import triton
import triton.language as tl
from torch import Tensor

from quant.kernels.dependent import launch_options
from quant.kernels.dot import dot_type, precision
from quant.kernels.waiting import wait_for_inputs

WARPS, STAGES = 8, 3
_PROGRAMS = 256  # two on each multiprocessor, which is what their registers allow
_IN_ONE = 4  # steps of a program, each of two loops: as long as another launch takes


def block_n(dtype: torch.dtype) -> int:
    """Positions of one step: as many as leave three steps in flight without spilling registers."""
    return 64 if dtype == torch.float32 else 128


def span_of(N: int, heads: int, block: int) -> int:
    """Positions that one program walks; N where one does all of a head, of `heads` in the batch."""
    steps = -(-N // block)
    if steps <= _IN_ONE:
        return N
    return -(-steps // min(steps, max(_PROGRAMS // heads, 1))) * block


@triton.jit
def _relu(x):
    """NaN stays NaN."""
    return tl.maximum(x.to(tl.float32), 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _sum(
    k_tile,
    v_tile,
    stride_k_token,
    stride_v_token,
    begin,
    end,
    E,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Sums over positions begin..end: keys (rows) times values (columns), and keys. fp32."""
    tokens = tl.arange(0, BLOCK_N)
    in_head = (tl.arange(0, BLOCK_E) < E)[None, :]
    sums = tl.zeros((BLOCK_E, BLOCK_E), dtype=tl.float32)
    key_sum = tl.zeros((BLOCK_E,), dtype=tl.float32)
    for start in range(begin, end, BLOCK_N):
        at = (start + tokens).to(tl.int64)[:, None]
        inside = (start + tokens < end)[:, None] & in_head
        k = _relu(tl.load(k_tile + at * stride_k_token, mask=inside, other=0.0))
        v = tl.load(v_tile + at * stride_v_token, mask=inside, other=0.0)
        key_sum += tl.sum(k, axis=0)
        sums = tl.dot(tl.trans(k.to(DOT)), v.to(DOT), sums, input_precision=PRECISION)
    return sums, key_sum


@triton.jit
def _attend(
    q_tile,
    out_tile,
    stride_q_token,
    stride_out_token,
    begin,
    end,
    E,
    eps,
    sums,
    key_sum,
    NARROW: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Write the results of queries begin..end."""
    tokens = tl.arange(0, BLOCK_N)
    in_head = (tl.arange(0, BLOCK_E) < E)[None, :]
    high = (sums.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)  # tf32's bits
    for start in range(begin, end, BLOCK_N):
        at = (start + tokens).to(tl.int64)[:, None]
        inside = (start + tokens < end)[:, None] & in_head
        q = _relu(tl.load(q_tile + at * stride_q_token, mask=inside, other=0.0))
        if NARROW:
            # q is exact in tf32, and two of its numbers hold 22 bits of a sum.
            out = tl.dot(q, sums - high, input_precision="tf32")
            out = tl.dot(q, high, out, input_precision="tf32")
        else:
            out = tl.dot(q, sums, input_precision=PRECISION)
        out = out / (tl.sum(q * key_sum[None, :], axis=1)[:, None] + eps)
        tl.store(out_tile + at * stride_out_token, out.to(out_tile.dtype.element_ty), mask=inside)


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
    PRECISION: tl.constexpr,  # of fp32 inputs
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """All of a head."""
    wait_for_inputs(DEPENDENT)
    picture = (tl.program_id(0) // H).to(tl.int64)
    head = (tl.program_id(0) % H).to(tl.int64)
    es = tl.arange(0, BLOCK_E)[None, :]
    k_tile = k_ptr + picture * stride_k_picture + head * stride_k_head + es
    v_tile = v_ptr + picture * stride_v_picture + head * stride_v_head + es
    sums, key_sum = _sum(
        k_tile, v_tile, stride_k_token, stride_v_token, 0, N, E, DOT, PRECISION, BLOCK_N, BLOCK_E
    )
    q_tile = q_ptr + picture * stride_q_picture + head * stride_q_head + es
    out_tile = out_ptr + (picture * N * H + head) * E + es
    _attend(
        q_tile, out_tile, stride_q_token, H * E, 0, N, E, eps, sums, key_sum, NARROW, PRECISION,
        BLOCK_N, BLOCK_E,
    )  # fmt: skip


@triton.jit
def key_value_sums_kernel(
    k_ptr,
    v_ptr,
    parts_ptr,  # fp32 (B * H, parts, BLOCK_E + 1, BLOCK_E): sums, and the keys' in the last row
    N,
    H,
    E,
    span,
    stride_k_picture,
    stride_k_token,
    stride_k_head,
    stride_v_picture,
    stride_v_token,
    stride_v_head,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """A part of a head's positions."""
    wait_for_inputs(DEPENDENT)
    picture = (tl.program_id(0) // H).to(tl.int64)
    head = (tl.program_id(0) % H).to(tl.int64)
    es = tl.arange(0, BLOCK_E)
    k_tile = k_ptr + picture * stride_k_picture + head * stride_k_head + es[None, :]
    v_tile = v_ptr + picture * stride_v_picture + head * stride_v_head + es[None, :]
    begin = tl.program_id(1) * span
    sums, key_sum = _sum(
        k_tile, v_tile, stride_k_token, stride_v_token, begin, tl.minimum(begin + span, N), E, DOT,
        PRECISION, BLOCK_N, BLOCK_E,
    )  # fmt: skip
    part = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    part_ptr = parts_ptr + part.to(tl.int64) * (BLOCK_E + 1) * BLOCK_E
    tl.store(part_ptr + es[:, None] * BLOCK_E + es[None, :], sums)
    tl.store(part_ptr + BLOCK_E * BLOCK_E + es, key_sum)


@triton.jit
def attend_to_sums_kernel(
    q_ptr,
    parts_ptr,  # as `key_value_sums_kernel` leaves them
    out_ptr,
    N,
    H,
    E,
    eps,
    parts,
    span,
    stride_q_picture,
    stride_q_token,
    stride_q_head,
    NARROW: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """A part of a head's queries, after adding up all parts of its sums."""
    wait_for_inputs(DEPENDENT)
    picture = (tl.program_id(0) // H).to(tl.int64)
    head = (tl.program_id(0) % H).to(tl.int64)
    es = tl.arange(0, BLOCK_E)
    sums = tl.zeros((BLOCK_E, BLOCK_E), dtype=tl.float32)
    key_sum = tl.zeros((BLOCK_E,), dtype=tl.float32)
    part_ptr = parts_ptr + tl.program_id(0).to(tl.int64) * parts * (BLOCK_E + 1) * BLOCK_E
    for _ in range(0, parts):
        sums += tl.load(part_ptr + es[:, None] * BLOCK_E + es[None, :])
        key_sum += tl.load(part_ptr + BLOCK_E * BLOCK_E + es)
        part_ptr += (BLOCK_E + 1) * BLOCK_E
    q_tile = q_ptr + picture * stride_q_picture + head * stride_q_head + es[None, :]
    out_tile = out_ptr + (picture * N * H + head) * E + es[None, :]
    begin = tl.program_id(1) * span
    _attend(
        q_tile, out_tile, stride_q_token, H * E, begin, tl.minimum(begin + span, N), E, eps, sums,
        key_sum, NARROW, PRECISION, BLOCK_N, BLOCK_E,
    )  # fmt: skip


def launch(q: Tensor, k: Tensor, v: Tensor, out: Tensor, eps: float) -> None:
    """Fill out (B, N, H, E)."""
    B, N, H, E = q.shape
    block, wide = block_n(q.dtype), max(triton.next_power_of_2(E), 16)
    span = span_of(N, B * H, block)
    narrow = q.dtype != torch.float32
    shared: dict[str, object] = {"PRECISION": precision(), "BLOCK_N": block, **launch_options()}
    shared |= {"BLOCK_E": wide, "num_warps": WARPS, "num_stages": STAGES}
    of_q, of_k, of_v = (t.stride()[:3] for t in (q, k, v))
    with torch.cuda.device_of(q):
        if span >= N:
            relu_linear_attention_kernel[(B * H,)](
                q, k, v, out, N, H, E, eps, *of_q, *of_k, *of_v, DOT=dot_type(q.dtype),
                NARROW=narrow, **shared,
            )  # fmt: skip
            return
        parts = triton.cdiv(N, span)
        sums = torch.empty(B * H, parts, wide + 1, wide, dtype=torch.float32, device=q.device)
        key_value_sums_kernel[(B * H, parts)](
            k, v, sums, N, H, E, span, *of_k, *of_v, DOT=dot_type(q.dtype), **shared
        )
        attend_to_sums_kernel[(B * H, parts)](
            q, sums, out, N, H, E, eps, parts, span, *of_q, NARROW=narrow, **shared
        )
