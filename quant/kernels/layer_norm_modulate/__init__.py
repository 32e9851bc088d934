"""LayerNorm and AdaLN modulation of tokens, with what was to be added before and quantized after."""

# M rows (tokens), D channels, B groups of consecutive rows (pictures): 1, or any divisor of M

import torch
from torch import Tensor

from quant.kernels.checks import require_device, require_groups, require_quantized, require_tensor
from quant.kernels.quantize_per_token import MAX_K


def layer_norm_modulate(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    *,
    eps: float,
    branch: Tensor | None = None,
    branch_first: int = 0,
    gate: Tensor | None = None,
    addend: Tensor | None = None,
) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift in fp32, as (M, D) of x's type.

    x (M, D) is the residual stream. With `branch` (R, D), x[branch_first : branch_first + R] += branch comes
    first, times its `gate` (B, D) if there is one, and with `addend` (B, D), x += addend: in place, so that x is read and
    written once. shift, scale (B, D).
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _run(x, shift, scale, eps, branch, branch_first, gate, addend, None, out, None)
    return out


def layer_norm_modulate_quantize(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    *,
    eps: float,
    branch: Tensor | None = None,
    branch_first: int = 0,
    gate: Tensor | None = None,
    addend: Tensor | None = None,
    smooth: Tensor | None = None,
    q_dtype: torch.dtype = torch.int8,
) -> tuple[Tensor, Tensor]:
    """Compute `layer_norm_modulate`, round to x's type and quantize by row: int8 or e4m3 (M, D) and
    fp32 scales (M,).

    With `smooth` (D,), values are multiplied by it before they are quantized, as in
    `quantize_per_token`.
    """
    require_quantized("q_dtype", q_dtype)
    q = torch.empty(x.shape, dtype=q_dtype, device=x.device)
    scale_M = torch.empty(x.shape[:1], dtype=torch.float32, device=x.device)
    _run(x, shift, scale, eps, branch, branch_first, gate, addend, smooth, q, scale_M)
    return q, scale_M


def _run(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    branch: Tensor | None,
    branch_first: int,
    gate: Tensor | None,
    addend: Tensor | None,
    smooth: Tensor | None,
    out: Tensor,
    scale_M: Tensor | None,
) -> None:
    require_tensor("x", x, (None, None))
    M, D = x.shape
    if not 0 < D <= MAX_K:
        raise ValueError(f"x has {D} channels, not 1 to {MAX_K}")
    if branch is None and gate is not None:
        raise ValueError("a gate needs a branch")
    if branch is not None:
        require_tensor("branch", branch, (None, D), like=x)
        if not 0 <= branch_first <= M - len(branch):
            raise ValueError(f"branch has {len(branch)} rows from {branch_first} on, of {M}")
    for name, rows in (("shift", shift), ("scale", scale), ("gate", gate), ("addend", addend)):
        if rows is not None:
            require_groups(name, rows, M, D, like=x)
    if smooth is not None:
        require_tensor("smooth", smooth, (D,), like=x)
    require_device(x)
    if M:
        from quant.kernels.layer_norm_modulate.kernel import launch

        launch(x, shift, scale, eps, branch, branch_first, gate, addend, smooth, out, scale_M)
