"""Measure what this machine can do at most, by short matrix products and copies: the best of several runs.

Arithmetic that has several libraries counts by the fastest of them; one that is slow is called once.
"""

# M rows, K inner, N columns

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

_LEAST = 3
_SLOW, _HOPELESS = 3, 20  # times the shortest run: not called again; not even after the first run
_WARMING_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Sizes of a probe, and the seconds that each takes."""

    shape: tuple[int, int, int] = (
        1024,
        2048,
        2048,
    )  # M, K, N: enough for every core, small enough for a phone
    copy_bytes: int = 2**27
    seconds: float = 0.4


def usual_effort(device: torch.device) -> Effort:
    """Return the sizes that reach what a device can do."""
    return Effort(shape=(8192, 8192, 8192)) if device.type == "cuda" else Effort()


def ceilings(device: torch.device, effort: Effort | None = None) -> dict[str, float]:
    """Operations a second by arithmetic ("fp32", "bf16", "int8"), and "copy": bytes a second, read and written."""
    effort = effort or usual_effort(device)
    M, K, N = effort.shape
    found: dict[str, float] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(M, K, device=device).to(dtype)
        b = torch.randn(N, K, device=device).to(dtype)
        products: list[Callable[[], object]] = [partial(torch.nn.functional.linear, a, b)]
        # torch's own choice for fp32 leaves instructions of some CPUs unused; bf16 it gives to oneDNN where that has any.
        if dtype == torch.float32 and _has_onednn(device):
            products.append(partial(_onednn, a, b))
        found[name] = 2 * M * K * N / _best(products, device, effort.seconds)
    if device.type in ("cpu", "cuda"):
        qa = torch.randint(-127, 128, (M, K), device=device, dtype=torch.int8)
        qb = torch.randint(-127, 128, (N, K), device=device, dtype=torch.int8)
        if int8 := _best(_int8_products(qa, qb), device, effort.seconds):
            found["int8"] = 2 * M * K * N / int8
    source = torch.empty(effort.copy_bytes, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    seconds = _best([lambda: target.copy_(source)], device, effort.seconds)
    found["copy"] = 2 * effort.copy_bytes / seconds
    return found


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return out


def _has_onednn(device: torch.device) -> bool:
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return device.type == "cpu" and there


def _int8_products(a: Tensor, b: Tensor) -> Iterable[Callable[[], object]]:
    if a.device.type == "cpu":
        from quant.backends.cpu import int8_products

        return int8_products(a, b)
    return [lambda: torch._int_mm(a, b.T)]


def _best(runs: Iterable[Callable[[], object]], device: torch.device, turn_s: float) -> float:
    """Return the seconds of the fastest run of the fastest way; 0 where there is no way."""
    best = 0.0
    for run in runs:
        first = _timed(run, device)  # warms up, which takes a library some milliseconds
        if best and first > _HOPELESS * best + _WARMING_S:
            continue
        ends, count = time.perf_counter() + turn_s, 0
        while count < _LEAST or time.perf_counter() < ends:
            seconds = _timed(run, device)
            if best and seconds > _SLOW * best:
                break
            best = min(best or seconds, seconds)
            count += 1
    return best


def _timed(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
