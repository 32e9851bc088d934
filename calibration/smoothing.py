"""Move outliers of a few input channels into the weights, where they hurt less.

SmoothQuant (arXiv 2211.10438) does it so that one token's integers are not all spent on a few channels, AWQ (arXiv
2306.00978) so that the weights that meet large inputs get finer steps; both divide a channel's inputs by about
max|x|^alpha / max|w|^(1-alpha). Here alpha is searched per layer, by the error of the layer's output on real
rows, and a layer is left alone unless that gains enough.
"""

# M rows (tokens), K input channels, N output channels

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from quant.config import QuantConfig
from quant.layers import QuantLinear
from quant.primitives import sqnr_db

ALPHAS = (0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MIN_GAIN_DB = 0.5  # below it a layer stays plain: less to store and to multiply
_LARGEST = 2.0**10  # of a factor or its inverse; beyond it, 16-bit weights would overflow


def smoothing_factors(
    absmax_K: Tensor, weights_NK: Sequence[Tensor], alpha: float, *, powers_of_two: bool = False
) -> Tensor:
    """Return the factors that multiply the inputs, fp32 (K,), geometric mean about 1. Weights share
    the input.

    With `powers_of_two` a factor moves between 16-bit tensors without rounding.
    """
    weight_K = torch.stack([weight.float().abs().amax(dim=0) for weight in weights_NK]).amax(dim=0)
    live = (absmax_K > 0) & (weight_K > 0)
    log = alpha * absmax_K.float().log2() - (1 - alpha) * weight_K.log2()
    log = torch.where(live, log, torch.zeros_like(log))
    center = log.sum() / live.sum().clamp(min=1)
    log = torch.where(live, center - log, torch.zeros_like(log))
    limit = math.log2(_LARGEST)
    log = log.clamp(-limit, limit)
    return torch.exp2(log.round() if powers_of_two else log)


def search_smoothing(
    x_MK: Tensor,
    absmax_K: Tensor,
    weights_NK: Sequence[Tensor],
    config: QuantConfig,
    *,
    powers_of_two: bool = False,
) -> Tensor | None:
    """Search the factors that lower the output's error most; None when none gains MIN_GAIN_DB.

    If several layers share the input, the mean of their SQNR in dB counts.
    """
    best, best_db = None, _mean_sqnr(x_MK, weights_NK, config, None) + MIN_GAIN_DB
    for alpha in ALPHAS:
        factors = smoothing_factors(absmax_K, weights_NK, alpha, powers_of_two=powers_of_two)
        db = _mean_sqnr(x_MK, weights_NK, config, factors)
        if db > best_db:
            best, best_db = factors, db
    return best


def _mean_sqnr(
    x_MK: Tensor, weights_NK: Sequence[Tensor], config: QuantConfig, factors: Tensor | None
) -> float:
    if factors is not None:
        config = replace(config, smooth=True)
    values = [
        sqnr_db(
            x_MK @ weight.float().T,
            QuantLinear.from_weight(weight, None, config, smooth_K=factors)(x_MK),
        )
        for weight in weights_NK
    ]
    return sum(values) / len(values)
