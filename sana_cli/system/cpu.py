"""Share the processor with other programs: how busy it is, and how our threads wait. No torch.

Torch divides a product among all cores, and each of its threads waits for the last one. By default OpenMP's threads
spin for milliseconds while they wait, which keeps a busy machine's cores from the threads that still have work to do:
a picture then takes many times as long (`benchmarks/busy.py`).
"""

import os

from sana_cli.system.processor import best_threads

# OpenMP reads these once, when torch is imported. Whoever has set one of them has decided how threads wait;
# OMP_NUM_THREADS is none of them, since any number of threads but one has to wait somehow.
WAITING_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
_SPIN = {
    "GOMP_SPINCOUNT": "1000",  # rounds, some 10 microseconds: libgomp, which torch for Linux brings
    "KMP_BLOCKTIME": "1",  # milliseconds; the default is 200: LLVM's and Intel's, on macOS and Windows
}
_LONG_SPIN = {  # what each variable may ask for at most without being a reason for slow pictures
    "GOMP_SPINCOUNT": 20_000,
    "KMP_BLOCKTIME": 5,
}


def limit_spinning() -> None:
    """Make OpenMP's threads spin only briefly before they sleep, unless the user's environment
    decides.

    Call it at the beginning of a process of our own: it has no effect once torch has been imported.
    """
    if not any(os.environ.get(name) for name in WAITING_VARIABLES):
        os.environ.update(_SPIN)
    _use_fitting_threads()
    _keep_number_of_threads()


def _use_fitting_threads() -> None:
    """Let OpenMP use as many threads as this process has processor for, unless the user has decided."""
    if os.environ.get("OMP_NUM_THREADS"):
        return
    threads = best_threads()
    if threads is not None and threads < cores():  # else OpenMP counts the same itself
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _keep_number_of_threads() -> None:
    """Let OpenMP give as many threads as it promises: where it gives fewer, parts of torch's results
    are never computed, and drawing ends in NaN.
    """
    if "OMP_DYNAMIC" in os.environ:
        os.environ["OMP_DYNAMIC"] = "FALSE"
    limit = os.environ.get("OMP_THREAD_LIMIT", "").strip()
    if limit.isdecimal():
        asked = os.environ.get("OMP_NUM_THREADS", "").strip()
        most = int(asked) if asked.isdecimal() else cores()
        os.environ["OMP_NUM_THREADS"] = str(max(1, min(int(limit), most)))


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float | None:
    """Return how many threads wanted to run, averaged over the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def crowded() -> str:
    """Say in one line that other programs slow drawing down; empty when a core is free."""
    busy, count = load(), cores()
    if busy is None or busy <= count:
        return ""
    words = f"the CPU is busy (load {busy:.1f} on {count} cores)"
    if variable := spinning():
        return f"{words}, and {variable} makes waiting threads spin: drawing may be 10 times slower"
    return f"{words}: drawing takes longer"


def remedy() -> str:
    """Say what to do where `crowded` has something to say."""
    if variable := spinning():
        return f"unset {variable.partition('=')[0]}"
    return "wait until other programs are done"


def spinning() -> str:
    """Return the variable, as NAME=VALUE, by which the user has asked for threads that spin for long; or empty."""
    for name in WAITING_VARIABLES:
        value = os.environ.get(name, "").strip().lower()
        if value in ("active", "infinite", "infinity", "turnaround") or _is_long(name, value):
            return f"{name}={value}"
    return ""


def _is_long(name: str, value: str) -> bool:
    return name in _LONG_SPIN and value.isdecimal() and int(value) > _LONG_SPIN[name]
