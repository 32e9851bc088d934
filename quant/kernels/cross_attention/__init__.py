"""Softmax attention from image tokens to text tokens, with the queries' w8a8 product in front of it."""

# M rows (tokens) of B pictures, K input channels, H heads, E head width, D = H * E, L text tokens

import torch
from torch import Tensor

from quant.kernels.checks import require_device, require_tensor

MAX_E = 128  # two tiles of queries, and of sums, are held in the registers of one program


def cross_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    mask: Tensor | None = None,
    out_largest: Tensor | None = None,
) -> Tensor:
    """softmax(q keys^T / sqrt(E)) values for every head, as (M, D) of q's type.

    q (M, D), M / B consecutive rows a picture; keys, values (B, H, L, E) of one type; mask (B, L) bool, True
    where a text token is real, at least one in each picture. `out_largest` (M,) fp32 is raised to the largest
    magnitude of each row of the result.
    """
    require_tensor("q", q, (None, None))
    _require_text(q, keys, values, mask)
    _, H, _, E = keys.shape
    require_tensor("q", q, (None, H * E))
    return _run(q, None, None, None, None, None, keys, values, mask, out_largest)


def cross_attention_w8a8(
    x: Tensor,
    largest: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    bias: Tensor | None = None,
    smooth: Tensor | None = None,
    mask: Tensor | None = None,
    out_largest: Tensor | None = None,
) -> Tensor:
    """Attend as `cross_attention` with queries of x (M, K): its w8a8 product with weight (D, K),
    rounded to x's type.

    `largest` (M,) fp32 are the largest magnitudes of x's rows, or of x * `smooth` (K,): by their
    scales x is quantized while it is read. weight_scale (D,) fp32; bias (D,).
    """
    require_tensor("x", x, (None, None))
    _require_text(x, keys, values, mask)
    M, K = x.shape
    _, H, _, E = keys.shape
    if not K:
        raise ValueError("x has no channels")
    require_tensor("largest", largest, (M,), [torch.float32], like=x)
    require_tensor("weight", weight, (H * E, K), [torch.int8], like=x)
    require_tensor("weight_scale", weight_scale, (H * E,), [torch.float32], like=x)
    for name, row, width in (("bias", bias, H * E), ("smooth", smooth, K)):
        if row is not None:
            require_tensor(name, row, (width,), like=x)
    return _run(x, largest, weight, weight_scale, bias, smooth, keys, values, mask, out_largest)


def _require_text(x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> None:
    require_tensor("keys", keys, (None, None, None, None), [x.dtype], like=x)
    B, _, L, E = keys.shape
    if not 0 < E <= MAX_E:
        raise ValueError(f"keys have heads of {E} channels, not 1 to {MAX_E}")
    if not B or len(x) % B or not L:
        raise ValueError(f"keys are {L} tokens of {B} pictures, for {len(x)} rows")
    require_tensor("values", values, keys.shape, [x.dtype], like=x)
    if mask is not None:
        require_tensor("mask", mask, (B, L), [torch.bool], like=x)


def _run(
    x: Tensor,
    largest: Tensor | None,
    weight: Tensor | None,
    weight_scale: Tensor | None,
    bias: Tensor | None,
    smooth: Tensor | None,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    out_largest: Tensor | None,
) -> Tensor:
    M = len(x)
    if out_largest is not None:
        require_tensor("out_largest", out_largest, (M,), [torch.float32], like=x)
    require_device(x)
    out = torch.empty(M, keys.shape[1] * keys.shape[3], dtype=x.dtype, device=x.device)
    if out.numel():
        from quant.kernels.cross_attention.kernel import launch

        launch(x, largest, weight, weight_scale, bias, smooth, keys, values, mask, out, out_largest)
    return out
