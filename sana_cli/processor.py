"""How busy the processor is with other programs.

Torch divides a product among all cores, and its threads wait for the last one. Where another program has some of the
cores that takes many times as long as with one thread, which nothing else tells. No torch, unless there is such a case.
"""

import os

REMEDY = "put OMP_NUM_THREADS=1 before the command, or wait until other programs are done"


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float | None:
    """How many threads wanted to run, on average of the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def crowded() -> str:
    """In words that our threads will wait for each other, or empty."""
    busy, count = load(), cores()
    if busy is None or busy <= count:
        return ""
    import torch

    threads = torch.get_num_threads()
    if threads == 1:
        return ""
    return (
        f"a load of {busy:.1f} on {count} cores: the {threads} threads of torch wait for each other"
    )
