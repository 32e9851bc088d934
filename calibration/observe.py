"""Watch the inputs of layers while a model runs: ranges, a sample of rows, and input Hessians.

Everything is summed up as it streams by; memory holds the sums and a few hundred rows a layer, however much is
run. What is run comes as a list of calls, so that it can run again for another group of layers.
"""

# M rows (tokens), K input channels, T timestep buckets

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 512  # a layer's sample, half of it to choose by and half to report on
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Call:
    """A run of a model on recorded inputs, and the timestep bucket that it belongs to."""

    run: Callable[[], object]
    bucket: int = 0


@dataclass(slots=True)
class InputStats:
    """Statistics of the inputs of one layer."""

    absmax_TK: Tensor
    hessian_KK: Tensor | None  # the sum of X^T X
    samples: list[Tensor] = field(default_factory=list)

    @property
    def absmax_K(self) -> Tensor:
        return self.absmax_TK.amax(dim=0)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return the sample in fp32, every other row: rows to choose by, rows to report on."""
        rows_MK = torch.cat(self.samples)
        return rows_MK[0::2], rows_MK[1::2]


def stats_bytes(in_channels: int, *, hessian: bool, buckets: int) -> int:
    """Memory that observing one layer takes at most; `gptq` needs as much as a Hessian again."""
    hessians = 2 * in_channels * in_channels if hessian else 0
    return FLOAT_BYTES * (hessians + (ROWS + buckets) * in_channels)


def observe(
    model: nn.Module,
    paths: Sequence[str],
    calls: Sequence[Call],
    *,
    hessians: bool,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, InputStats]:
    """Run all calls and sum up the inputs of these layers. A layer that no call reaches is missing."""
    buckets = 1 + max(call.bucket for call in calls)
    per_call = -(-ROWS // len(calls))
    generator = torch.Generator().manual_seed(seed)
    stats: dict[str, InputStats] = {}
    bucket = 0

    def look(path: str, x: Tensor) -> None:
        x_MK = x.detach().reshape(-1, x.shape[-1]).float()
        M, K = x_MK.shape
        if path not in stats:
            hessian = x_MK.new_zeros(K, K) if hessians else None
            stats[path] = InputStats(x_MK.new_zeros(buckets, K), hessian)
        known = stats[path]
        known.absmax_TK[bucket] = torch.maximum(known.absmax_TK[bucket], x_MK.abs().amax(dim=0))
        chosen = torch.randperm(M, generator=generator)[:per_call].to(x.device)
        known.samples.append(x_MK[chosen])
        if known.hessian_KK is not None:
            known.hessian_KK.addmm_(x_MK.T, x_MK)

    modules = {path: model.get_submodule(path) for path in paths}
    with torch.inference_mode(), watching(modules, look):
        for call in calls:
            bucket = call.bucket
            call.run()
            advance()
    return stats


@contextmanager
def watching(
    modules: Mapping[str, nn.Module], look: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call `look` with the first input of these modules whenever they run."""

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, inputs: look(path, inputs[0])

    handles = [module.register_forward_pre_hook(hook(path)) for path, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
