"""Memory of torch: out of memory recognized, freed memory given back, the peak."""

import gc
import sys
from functools import cache

import torch

from sana_cli.system.resident import give_back, peak_resident_bytes

_ALLOCATION_FAILED = (
    "can't allocate memory", "cannot allocate memory", "not enough memory",
    "could not create a primitive", "could not create a memory object",  # oneDNN's words for it
    "can't start new thread",  # no room for its stack
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is any form of "no memory left"."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # On a CPU, torch reports a failed allocation or mapping as a plain RuntimeError.
    words = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and any(
        w in words for w in _ALLOCATION_FAILED
    )


@cache
def freeze_imports() -> None:
    """Exclude the libraries' objects from garbage collection; call it once, before weights are
    loaded.

    A collection looks at every object: a tenth of a second after every stage, as much as the
    built-in model's decoder takes.
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
