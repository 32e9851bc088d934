"""Rows of floats become int8 with one scale a row; the result is `quant.primitives.quantize_per_token`'s."""

# M rows (tokens), K input channels

import torch
from torch import Tensor

from quant.kernels.checks import (
    require_device,
    require_groups,
    require_quantized,
    require_tensor,
)

MAX_K = 32768  # a whole row is held in the registers of one program


def quantize_per_token(
    x: Tensor,
    *,
    smooth: Tensor | None = None,
    branch: Tensor | None = None,
    gate: Tensor | None = None,
    q_dtype: torch.dtype = torch.int8,
) -> tuple[Tensor, Tensor]:
    """x (M, K) -> int8 or e4m3 (M, K) and fp32 scales (M,), of x * smooth where `smooth` (K,) is given.

    With `branch` (M, K) and its `gate` (B, K), x += gate * branch comes first, in place and rounded to x's type; each row of
    the gate is for M / B rows of x.

    A row with a NaN gets the scale NaN, so what comes of it is NaN and not a plausible number.
    """
    require_tensor("x", x, (None, None))
    M, K = x.shape
    if not 0 < K <= MAX_K:
        raise ValueError(f"x has {K} channels, not 1 to {MAX_K}")
    if smooth is not None:
        require_tensor("smooth", smooth, (K,), like=x)
    if (branch is None) != (gate is None):
        raise ValueError("branch and gate come together")
    if branch is not None and gate is not None:
        require_tensor("branch", branch, (M, K), like=x)
        require_groups("gate", gate, M, K, like=x)
    require_quantized("q_dtype", q_dtype)
    require_device(x)
    q = torch.empty(M, K, dtype=q_dtype, device=x.device)
    scale = torch.empty(M, dtype=torch.float32, device=x.device)
    if M:
        from quant.kernels.quantize_per_token.kernel import launch

        launch(x, branch, gate, smooth, q, scale)
    return q, scale
