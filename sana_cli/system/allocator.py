"""Set up how this process gets its memory on a CPU. No torch: it reads the variable when it
allocates for the first time.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8  # of glibc's malloc.h
# Where glibc's own limits, which move with what is freed, end up; larger blocks go back to the system at once.
_USUAL = {_ARENA_MAX: 1, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}
_IN_A_LOOP = 2**27  # bytes on top of the heap that wait for whoever asks next
_ours = False  # whether this process was set up by `set_up_allocator`
_VARIABLES = {
    _ARENA_MAX: "MALLOC_ARENA_MAX",
    _MMAP_THRESHOLD: "MALLOC_MMAP_THRESHOLD_",
    _TRIM_THRESHOLD: "MALLOC_TRIM_THRESHOLD_",
}


def set_up_allocator() -> None:
    """Ask for large pages and for one heap, where a process of our own begins, unless the user has decided.

    A map of a large picture is new memory, and the system clears it page by page: with pages of 4 KiB instead of
    2 MiB that takes several times as long as computing it. And glibc gives every thread a heap of its own: what the
    thread that reads ahead has freed there serves nobody else, hundreds of MiB with a streamed text encoder.
    """
    global _ours
    # Once: the C library answers no question while `preload.py` has it load torch's libraries.
    if _ours:
        return
    _ours = True
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    for parameter, value in _USUAL.items():
        _set(parameter, value)


@contextmanager
def keeping_freed() -> Iterator[None]:
    """Within a loop whose rounds are alike: what one frees stays for the next.

    Given back, it would have to be asked for and cleared again, a twentieth of a denoising step. Without effect in a
    process that `set_up_allocator` has not set up: its allocator is its owner's.
    """
    if not _ours:
        yield
        return
    _set(_TRIM_THRESHOLD, _IN_A_LOOP)
    try:
        yield
    finally:
        _set(_TRIM_THRESHOLD, _USUAL[_TRIM_THRESHOLD])


def _set(parameter: int, value: int) -> None:
    if _VARIABLES[parameter] not in os.environ:
        with suppress(AttributeError, OSError, TypeError):  # another C library
            ctypes.CDLL(None).mallopt(parameter, value)
