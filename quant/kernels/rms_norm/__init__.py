"""Root-mean-square norm over channels, with the activation and the residual that follow it."""

# M rows (tokens or pixels), P parts of a row that are normed each by itself, D channels

from typing import Literal

import torch
from torch import Tensor

from quant.kernels.checks import require_device, require_tensor
from quant.kernels.quantize_per_token import MAX_K


def rms_norm(
    x: Tensor,
    weight: Tensor,
    *,
    eps: float,
    bias: Tensor | None = None,
    activation: Literal["relu"] | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    out_largest: Tensor | None = None,
) -> Tensor:
    """activation(x / rms(x) * weight + bias) + residual in fp32, as (M, P, D) of x's type.

    x, residual (M, P, D); weight, bias (P, D). `out` may be x: queries and keys are normed where they lie
    in a projection's result. `out_largest` (B,) fp32 is raised to the largest magnitudes of pictures of M / B rows.
    """
    require_tensor("x", x, (None, None, None))
    D = x.shape[-1]
    if not 0 < D <= MAX_K:
        raise ValueError(f"x has {D} channels, not 1 to {MAX_K}")
    for name, row in (("weight", weight), ("bias", bias)):
        if row is not None:
            require_tensor(name, row, x.shape[1:], like=x)
    for name, rows in (("residual", residual), ("out", out)):
        if rows is not None:
            require_tensor(name, rows, x.shape, like=x)
    if activation not in (None, "relu"):
        raise ValueError(f"activation is {activation!r}, not 'relu' or None")
    if out_largest is not None:
        require_tensor("out_largest", out_largest, (None,), [torch.float32], like=x)
        if not len(out_largest) or len(x) % len(out_largest):
            raise ValueError(
                f"out_largest has {len(out_largest)} values, which do not divide {len(x)}"
            )
    require_device(x)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    if out.numel():
        from quant.kernels.rms_norm.kernel import launch

        launch(x, weight, bias, residual, out, out_largest, eps, activation)
    return out
