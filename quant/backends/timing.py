"""Which of several computations is the fastest on this machine, whatever else it is doing.

The time on the wall is also that of other programs, which come and go. So they take turns, and on a CPU its own
seconds count: those of all our threads, since libraries divide the same work differently among them.
"""

import math
import time
from collections.abc import Callable, Sequence

import torch

_ROUNDS = 5
# A turn takes at least as long: the system adds up the seconds of threads on other cores every few milliseconds only,
# so that a shorter one would seem to have used one core or several by chance.
_TURN_S = 0.04


def clock_of(device: torch.device) -> Callable[[], float]:
    """A clock for work on a device, in seconds; of a CPU those of all threads, where they are told finely."""
    if device.type == "cpu" and time.get_clock_info("process_time").resolution < 1e-4:
        return time.process_time
    if device.type == "cuda":

        def when_done() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return when_done
    return time.perf_counter


def best_seconds(runs: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """The shortest time of each: others only ever add to it. Each runs twice before, to warm up and to be repeated."""
    now = clock_of(device)
    repeats = []
    for run in runs:
        run()
        started = time.perf_counter()
        run()
        repeats.append(max(1, math.ceil(_TURN_S / (time.perf_counter() - started))))
    best = [float("inf")] * len(runs)
    for _ in range(_ROUNDS):
        for i, run in enumerate(runs):
            started = now()
            for _ in range(repeats[i]):
                run()
            best[i] = min(best[i], (now() - started) / repeats[i])
    return best
