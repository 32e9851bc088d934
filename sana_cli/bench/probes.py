"""What this machine can do at most, measured: short matrix products and copies. Best of several, since others may run."""

# M rows, K inner, N columns

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

_SHAPE = (1024, 2048, 2048)  # M, K, N: large enough for every core, small enough for a phone
_ON_GPU = (8192, 8192, 8192)
_COPY_BYTES = 2**27
_SECONDS = 0.4  # a probe
_LEAST = 3


def ceilings(device: torch.device) -> dict[str, float]:
    """Operations a second by arithmetic ("fp32", "bf16", "int8"), and "copy": bytes a second, read and written."""
    M, K, N = _ON_GPU if device.type == "cuda" else _SHAPE
    found: dict[str, float] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(M, K, device=device).to(dtype)
        b = torch.randn(N, K, device=device).to(dtype)
        seconds = _best(lambda a=a, b=b: torch.nn.functional.linear(a, b), device)  # type: ignore[misc]
        # torch's own choice for fp32 leaves instructions of some CPUs unused; bf16 it gives to oneDNN where that has any.
        if dtype == torch.float32 and _has_onednn(device):
            seconds = min(seconds, _best(partial(_onednn, a, b), device))
        found[name] = 2 * M * K * N / seconds
    if device.type in ("cpu", "cuda"):
        qa = torch.randint(-127, 128, (M, K), device=device, dtype=torch.int8)
        qb = torch.randint(-127, 128, (N, K), device=device, dtype=torch.int8)
        found["int8"] = 2 * M * K * N / _best(lambda: torch._int_mm(qa, qb.T), device)
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    found["copy"] = 2 * _COPY_BYTES / _best(lambda: target.copy_(source), device)
    return found


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return out


def _has_onednn(device: torch.device) -> bool:
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return device.type == "cpu" and there


def _best(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest run."""
    run()
    best, ends, count = float("inf"), time.perf_counter() + _SECONDS, 0
    while count < _LEAST or time.perf_counter() < ends:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
        count += 1
    return best
