"""Stored activation scales for DC-AE's 3x3 convolutions.

A scale found while running costs a pass over maps of a hundred megabytes; the ranges hardly depend on the picture,
so they are measured once. The scale is the one with the least squared error on sampled values, which may clip the
few largest.
"""

# B pictures, K input channels, H W picture

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from calibration.observe import Call, watching
from quant.config import QuantConfig
from quant.layers import QuantConv2d
from quant.primitives import INT8_MAX, sqnr_db

_VALUES = 65536  # sampled a layer, over all calls
_CROP = 48  # pixels: the piece of the first map that a layer's SQNR is reported on
_SHRINKS = [1.0 - 0.05 * step for step in range(13)]  # of the largest magnitude: 1.0 .. 0.4


@dataclass(slots=True)
class _MapStats:
    absmax: float = 0.0
    values: list[Tensor] = field(default_factory=list)
    crop: Tensor | None = None


def calibrate_convolutions(
    model: nn.Module,
    paths: Sequence[str],
    config: QuantConfig,
    calls: Sequence[Call],
    *,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> tuple[dict[str, QuantConv2d], dict[str, float]]:
    """Layers with a stored scale, by path, and their output SQNR; those that no call reaches are missing."""
    stats: dict[str, _MapStats] = {}
    generator = torch.Generator().manual_seed(seed)
    per_call = -(-_VALUES // len(calls))

    def look(path: str, x: Tensor) -> None:
        known = stats.setdefault(path, _MapStats())
        known.absmax = max(known.absmax, float(x.abs().max()))
        flat = x.detach().flatten()
        chosen = torch.randint(len(flat), (per_call,), generator=generator).to(x.device)
        known.values.append(flat[chosen].float())
        if known.crop is None:
            top, left = ((side - min(side, _CROP)) // 2 for side in x.shape[-2:])
            known.crop = x[:1, :, top : top + _CROP, left : left + _CROP].clone()

    with torch.inference_mode(), watching({p: model.get_submodule(p) for p in paths}, look):
        for call in calls:
            call.run()
            advance()
    layers, sqnr = {}, {}
    for path, found in stats.items():
        conv = model.get_submodule(path)
        assert isinstance(conv, nn.Conv2d)
        assert found.crop is not None
        scale = best_scale(torch.cat(found.values), found.absmax)
        layers[path] = QuantConv2d.from_conv(
            conv, replace(config, static_act=True), act_scale=scale
        )
        with torch.inference_mode():
            sqnr[path] = sqnr_db(conv(found.crop), layers[path](found.crop))
    return layers, sqnr


def best_scale(values: Tensor, absmax: float) -> Tensor:
    """The int8 scale, fp32 (), of least squared error on these values, at most `absmax` / 127."""
    if absmax == 0:
        return torch.ones((), device=values.device)
    best, least = values.new_tensor(absmax / INT8_MAX), torch.inf
    for shrink in _SHRINKS:
        scale = values.new_tensor(absmax * shrink / INT8_MAX)
        rounded = (values / scale).round().clamp(-INT8_MAX, INT8_MAX) * scale
        error = float((rounded - values).square().mean())
        if error < least:
            best, least = scale, error
    return best
