"""Large pages for torch's CPU memory. No torch: it reads the variable when it allocates for the first time."""

import os


def use_large_pages() -> None:
    """Ask for 2 MiB pages where a process of our own begins, unless the user has decided.

    A map of a large picture is new memory, and the system clears it page by page: with pages of 4 KiB that takes
    several times as long as computing it.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
