"""Count the memory of this process as the kernel does, and give back what it no longer needs. No torch."""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path


def resident_bytes() -> int:
    """Return the resident bytes of this process."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int | None:
    """Return the highest resident bytes of this process so far; getrusage would start with the
    parent's memory.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):  # psutil knows it on Windows only
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def give_back() -> None:
    """Hand freed memory to the system now. C libraries keep it otherwise: half of a freed model stays resident."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's call; None with another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
