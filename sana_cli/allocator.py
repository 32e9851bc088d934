"""How a process of ours gets its memory on a CPU. No torch: it reads the variable when it allocates for the first time."""

import ctypes
import os
from contextlib import suppress

# Of glibc's malloc.h; with the variables by which a user may have decided.
_LIMITS = (
    (-8, 1, "MALLOC_ARENA_MAX"),
    (-3, 2**25, "MALLOC_MMAP_THRESHOLD_"),  # the largest that it takes
    (-1, 2**28, "MALLOC_TRIM_THRESHOLD_"),
)


def set_up_allocator() -> None:
    """Ask for large pages and for one heap that keeps its memory, where a process of our own begins.

    A map of a large picture is new memory, and the system clears it page by page: with pages of 4 KiB instead of
    2 MiB that takes several times as long as computing it. Tensors of a step come and go; what glibc would give back to
    the system between them, it would have to ask for and clear again (a twentieth of a step). And glibc gives every
    thread a heap of its own: what the thread that reads ahead has freed there serves nobody else, hundreds of MiB with
    a streamed text encoder. What the user has decided stays.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value, variable in _LIMITS:
            if variable not in os.environ:
                mallopt(parameter, value)
