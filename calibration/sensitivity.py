"""Measure which layers suffer most from quantization: the effect of each one alone on the network's
output.

A layer's own SQNR does not show it: the same error drowns in one place and decides the picture in
another. So each layer is swapped in alone, recorded steps run again, and the change of the velocity
counts. Errors of different layers are nearly independent, so their powers add up, which predicts
any choice of layers without running it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from calibration.observe import Call

PROBES = 8  # recorded steps that are run again for every layer


@contextmanager
def swapped(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put layers in place of those at their paths for a while."""
    before = {path: model.get_submodule(path) for path in layers}
    try:
        for path, layer in layers.items():
            model.set_submodule(path, layer)
        yield
    finally:
        for path, layer in before.items():
            model.set_submodule(path, layer)


def probe_calls(calls: Sequence[Call], count: int = PROBES) -> list[Call]:
    """Calls spread over what was recorded; an odd stride, so that every timestep bucket is met."""
    stride = max(1, len(calls) // count) | 1
    return list(calls[::stride])[:count]


def noise_of_layers(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    calls: Sequence[Call],
    *,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Quantize each layer alone and return the power of the output's change, as a share of the output's."""
    expected = outputs_of(calls)
    noise = {}
    for path, layer in layers.items():
        with swapped(model, {path: layer}):
            noise[path] = noise_share(expected, outputs_of(calls))
        advance()
    return noise


@torch.inference_mode()
def outputs_of(calls: Sequence[Call]) -> list[Tensor]:
    """Run every call; each returns a tensor."""
    outputs = [call.run() for call in calls]
    assert all(isinstance(output, Tensor) for output in outputs)
    return outputs  # type: ignore[return-value]


def noise_share(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Power of the difference over power of the signal, all tensors together."""
    noise = sum(
        float((a.float() - b.float()).square().sum()) for a, b in zip(expected, found, strict=True)
    )
    return noise / sum(float(a.float().square().sum()) for a in expected)


def to_db(noise: float) -> float:
    """Convert a noise share to SQNR in dB."""
    return math.inf if noise <= 0 else -10 * math.log10(noise)


def worst(noise: Mapping[str, float], count: int) -> list[str]:
    """Return the layers with most effect, the worst first."""
    return sorted(noise, key=lambda path: noise[path], reverse=True)[:count]


def enough_for(
    noise: Mapping[str, float], rest: Mapping[str, float], *, budget_db: float, offset_db: float
) -> tuple[list[str], float] | None:
    """Return the fewest worst layers to keep for a predicted latent SQNR of `budget_db`, and that
    SQNR.

    `rest` is the noise that a layer still makes once it is kept; `offset_db` is the latents' SQNR
    minus the sum of these effects. None: not even keeping all of them is enough.
    """
    order = worst(noise, len(noise))
    for count in range(len(order) + 1):
        kept = set(order[:count])
        total = sum(rest[path] if path in kept else noise[path] for path in noise)
        if (predicted := to_db(total) + offset_db) >= budget_db:
            return order[:count], predicted
    return None
