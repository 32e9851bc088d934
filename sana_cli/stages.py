"""What the stages of a run share: who is told, how long they took, what memory they leave."""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Protocol

import torch

from sana_cli.resident import give_back, peak_resident_bytes

_ALLOCATION_FAILED = (
    "can't allocate memory", "cannot allocate memory", "not enough memory",
    "could not create a primitive", "could not create a memory object",  # oneDNN's words for it
    "can't start new thread",  # no room for its stack
)  # fmt: skip
STAGES = ("load", "text", "denoise", "decode", "save")  # of every picture


class Reporter(Protocol):
    """Where progress and notices go; `console.py` draws them, tests collect them."""

    def stage(
        self, title: str, total: int | None = None
    ) -> AbstractContextManager[Callable[[], None]]:
        """Open a stage of `total` steps (None: unknown); the yielded function advances it."""

    def notice(self, message: str) -> None:
        """Something that the user should know, in one line."""


class Stopwatch:
    """Seconds by stage, of one picture."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.start()

    def start(self) -> None:
        """Forget what was measured: the next picture begins."""
        self._started = time.perf_counter()
        self._seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count what runs within as `stage`, whether it succeeds or not; but for stages within, which count their own."""
        started, before = time.perf_counter(), sum(self._seconds.values())
        try:
            yield
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
        finally:
            spent = time.perf_counter() - started - (sum(self._seconds.values()) - before)
            self._seconds[stage] = self._seconds.get(stage, 0.0) + spent

    @property
    def seconds(self) -> dict[str, float]:
        """They add up to the total; `other` is what lies between stages, mostly memory that is given back."""
        total = time.perf_counter() - self._started
        other = max(0.0, total - sum(self._seconds.values()))
        return {**self._seconds, "other": other, "total": total}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is any form of "no memory left"."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # On a CPU, torch reports a failed allocation or mapping as a plain RuntimeError.
    words = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and any(
        w in words for w in _ALLOCATION_FAILED
    )


@cache
def freeze_imports() -> None:
    """Have collections pass over what libraries made, once and before weights are loaded.

    A collection looks at every object: a tenth of a second after every stage, as much as the built-in model's decoder takes.
    """
    gc.freeze()


def release_memory(device: torch.device) -> None:
    """Give freed weights back now, before the next part is loaded."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    give_back()


def peak_memory_bytes(device: torch.device) -> int:
    """Peak of this process: device memory on CUDA, resident memory elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    known = peak_resident_bytes()
    if known is not None:
        return known
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
