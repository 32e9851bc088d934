"""How a process of ours gets its memory on a CPU. No torch: it reads the variable when it allocates for the first time."""

import ctypes
import os
from contextlib import suppress

_M_ARENA_MAX = -8  # of glibc's malloc.h


def set_up_allocator() -> None:
    """Ask for large pages and for one heap, where a process of our own begins, unless the user has decided.

    A map of a large picture is new memory, and the system clears it page by page: with pages of 4 KiB instead of
    2 MiB that takes several times as long as computing it. And glibc gives every thread a heap of its own: what the
    thread that reads ahead has freed there serves nobody else, hundreds of MiB with a streamed text encoder.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(AttributeError, OSError, TypeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
