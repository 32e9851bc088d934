"""int8 inputs times int8 weights, with everything that follows in the same pass over the outputs."""

# M rows (tokens), K input channels, N output channels, B batch

from typing import Literal

import torch
from torch import Tensor

from quant.kernels.checks import require_device, require_float, require_groups, require_tensor
from quant.kernels.measured_tiles import measured_tile, processors_of
from quant.kernels.tiles import LINEAR_W8A8, LINEAR_W8A8_ON_LOAD, Tile, tile_for

MAX_K = (2**31 - 1) // (128 * 128)  # int32 holds the sum of so many products


def linear_w8a8(
    q: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    *,
    bias: Tensor | None = None,
    activation: Literal["silu"] | None = None,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
    out_largest: Tensor | None = None,
    out_smooth: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """activation(q W^T * scale * weight_scale + bias) * gate + residual, as (M, N) of `out_dtype`.

    q (M, K) and weight (N, K) int8; scale (M,) and weight_scale (N,) fp32, as quantize_per_token and
    quantize_per_channel give them; bias (N,); gate (B, N), each row for M / B consecutive rows of q;
    residual (M, N). All but the sums is fp32. `out` (M, N) may be the residual, which is then updated in
    place; its type is the result's. `out_largest` (M,) fp32 is raised to the largest magnitude of each row of
    the result, or of the result times `out_smooth` (N,). Without `tile`, the table decides.
    """
    require_tensor("q", q, (None, None), [torch.int8])
    return _run(
        q, "scale", scale, weight, weight_scale, bias, activation, gate, residual, out_dtype, out,
        out_largest, out_smooth, tile,
    )  # fmt: skip


def linear_w8a8_on_load(
    x: Tensor,
    largest: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    *,
    bias: Tensor | None = None,
    activation: Literal["silu"] | None = None,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """Compute `linear_w8a8` of floats x (M, K), quantized while read; `largest` (M,) fp32 are its
    rows' magnitudes.
    """
    require_tensor("x", x, (None, None))
    return _run(
        x, "largest", largest, weight, weight_scale, bias, activation, gate, residual, out_dtype,
        out, None, None, tile,
    )  # fmt: skip


def _run(
    q: Tensor,
    name: str,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    activation: str | None,
    gate: Tensor | None,
    residual: Tensor | None,
    out_dtype: torch.dtype,
    out: Tensor | None,
    out_largest: Tensor | None,
    out_smooth: Tensor | None,
    tile: Tile | None,
) -> Tensor:
    M, K = q.shape
    require_tensor("weight", weight, (None, K), [torch.int8], like=q)
    N = weight.shape[0]
    if not 0 < K <= MAX_K:
        raise ValueError(f"q has {K} channels, not 1 to {MAX_K}")
    require_tensor(name, scale, (M,), [torch.float32], like=q)
    require_tensor("weight_scale", weight_scale, (N,), [torch.float32], like=q)
    if bias is not None:
        require_tensor("bias", bias, (N,), like=q)
    if gate is not None:
        require_groups("gate", gate, M, N, like=q)
    if residual is not None:
        require_tensor("residual", residual, (M, N), like=q)
    if activation not in (None, "silu"):
        raise ValueError(f"activation is {activation!r}, not 'silu' or None")
    require_float("out_dtype", out_dtype)
    if out is not None:
        require_tensor("out", out, (M, N), like=q)
    if out_largest is not None:
        require_tensor("out_largest", out_largest, (M,), [torch.float32], like=q)
    if out_smooth is not None:
        require_tensor("out_smooth", out_smooth, (N,), like=q)
    require_device(q)
    if out is None:
        out = torch.empty(M, N, dtype=out_dtype, device=q.device)
    if out.numel():
        from quant.kernels.linear_w8a8.kernel import launch

        on_load = q.dtype != torch.int8
        name = "linear_w8a8_on_load" if on_load else "linear_w8a8"
        table = LINEAR_W8A8_ON_LOAD if on_load else LINEAR_W8A8
        tile = tile or measured_tile(name, q.device, M, N, K)
        tile = tile or tile_for(table, M, N, K, processors=processors_of(q.device))
        launch(
            q, scale, weight, weight_scale, bias, gate, residual, out, out_largest, out_smooth,
            activation, tile,
        )  # fmt: skip
    return out
