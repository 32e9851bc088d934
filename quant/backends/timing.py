"""Find the fastest of several computations on this machine, whatever else runs on it.

Wall time includes that of other programs, which come and go. So the computations take turns, and on
a CPU the seconds of the processor count: those of all our threads, since libraries divide the same
work differently among them.
"""

import math
import time
from collections.abc import Callable, Sequence

import torch

_ROUNDS, _LEAST_ROUNDS = 5, 2
_BUDGET_S = 0.3  # of the clock on the wall, for all rounds
_SLOW = 3  # times the shortest
# A turn takes at least as long: the system adds up the seconds of threads on other cores every few milliseconds only,
# so that a shorter one would seem to have used one core or several by chance.
_TURN_S = 0.04
_A_WHILE_S = 5e-4  # ten times what starting an operation may take
_BY_CHANCE_S = 0.02  # that one short run may seem to take more than another


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return a clock for work on a device, in seconds; on a CPU that of all threads, if it is fine enough."""
    if device.type == "cpu" and time.get_clock_info("process_time").resolution < 1e-4:
        return time.process_time
    if device.type == "cuda":

        def when_done() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return when_done
    return time.perf_counter


def fastest(
    runs_at: Callable[[int], Sequence[Callable[[], object]]],
    sizes: Sequence[int],
    device: torch.device,
) -> int:
    """Return which of several computations is the fastest, at the first size at which one takes a while, or the last.

    On a fast device small ones would be timed by how long Python takes to start them.
    """
    now = clock_of(device)
    for size in sizes:
        runs = runs_at(size)
        for run in runs:
            run()
        started = now()
        runs[0]()
        if now() - started >= _A_WHILE_S or size == sizes[-1]:
            best = best_seconds(runs, device)
            return best.index(min(best))
    raise ValueError("no size is given")


def best_seconds(
    runs: Sequence[Callable[[], object]],
    device: torch.device,
    *,
    turn_s: float = _TURN_S,
    budget_s: float = _BUDGET_S,
) -> list[float]:
    """Return the shortest time of each in seconds, since others only ever add to it. Each must have run before.

    Those that are several times as slow as the best are called only once, and the others as often as `budget_s` allows.
    """
    now = clock_of(device)
    best, repeats = [], []
    for run in runs:
        wall, started = time.perf_counter(), now()
        run()
        best.append(now() - started)
        repeats.append(max(1, math.ceil(turn_s / max(time.perf_counter() - wall, 1e-9))))
    limit = _SLOW * min(best, default=0.0) + _BY_CHANCE_S
    ends = time.perf_counter() + budget_s
    for number in range(_ROUNDS):
        if number >= _LEAST_ROUNDS and time.perf_counter() > ends:
            break
        for i in [i for i, seconds in enumerate(best) if seconds <= limit]:
            started = now()
            for _ in range(repeats[i]):
                runs[i]()
            best[i] = min(best[i], (now() - started) / repeats[i])
    return best
