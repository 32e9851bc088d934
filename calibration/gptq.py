"""GPTQ (arXiv 2210.17323): round one input channel at a time and let later ones compensate.

It minimizes the error of the layer's output on real inputs, ||X (W - Q)^T||^2, whose curvature is
the Hessian X^T X. After a channel is rounded, the optimal correction of all later channels follows
from the Cholesky factor of the Hessian's inverse; it is applied at once inside a block of channels
and in one product after it.
"""

# N output channels, K input channels, U upper Cholesky factor of the inverse Hessian

import torch
from torch import Tensor

from quant.config import QuantConfig
from quant.primitives import quantize_per_channel, search_group_scales

DAMPING = 0.01  # of the Hessian's mean diagonal, as in the paper; more where it is still singular
BLOCK = 128  # channels between two products over all later ones, as in the paper


def gptq(
    weight_NK: Tensor, hessian_KK: Tensor, config: QuantConfig, *, damping: float = DAMPING
) -> tuple[Tensor, Tensor]:
    """int8 values (N, K) and scales, as `quantize_per_group` or `quantize_per_channel` returns them.

    A group's scales are searched when its turn comes, on weights that already hold the corrections of all
    channels before it.
    """
    weight = weight_NK.float().clone()
    K = weight.shape[1]
    U = _inverse_factor(hessian_KK, damping)
    group = config.group_size
    assert config.scheme.integers is not None, config
    lowest, highest = config.scheme.integers
    scale_N = quantize_per_channel(weight)[1] if not group else weight.new_empty(0)
    group_scales = []
    q = torch.empty_like(weight, dtype=torch.int8)
    block = max(1, BLOCK // group) * group if group else BLOCK  # whole groups
    for start in range(0, K, block):
        part = weight[:, start : start + block]  # a view: corrections inside the block land in it
        errors = torch.zeros_like(part)
        for i in range(part.shape[1]):
            if group and i % group == 0:
                best = search_group_scales(part[:, i : i + group], group)
                group_scales.append(best)
                scale_N = best[:, 0].float()
            safe = torch.where(scale_N > 0, scale_N, torch.ones_like(scale_N))
            rounded = (part[:, i] / safe).round_().clamp_(lowest, highest)
            q[:, start + i] = rounded.to(torch.int8)
            row = U[start + i, start + i : start + part.shape[1]]
            errors[:, i] = (part[:, i] - rounded * scale_N) / row[0]
            part[:, i:] -= errors[:, i, None] * row
        stop = start + part.shape[1]
        weight[:, stop:] -= errors @ U[start:stop, stop:]
    return q, torch.cat(group_scales, dim=1) if group else scale_N


def _inverse_factor(hessian_KK: Tensor, damping: float) -> Tensor:
    """U with H^-1 = U^T U, of the damped Hessian."""
    H = hessian_KK.float().clone()
    diagonal = H.diagonal()
    diagonal[diagonal == 0] = 1.0  # a channel that never fires: any rounding is right
    step = damping * diagonal.mean()
    for _ in range(12):
        diagonal += step
        lower, failed = torch.linalg.cholesky_ex(H)
        if not failed:
            return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
        step = step * 4
    raise ValueError("the Hessian is not finite")
