"""Time a kernel on a CUDA device."""

import statistics
import time
from collections.abc import Callable

import torch

_LAUNCHES, _REPEATS = 20, 9  # at most
_GRAPH_S, _BUDGET_S = 0.01, 2.0  # of one graph, and of all its replays


def time_ms(run: Callable[[], object]) -> float:
    """Return the median milliseconds of one run.

    Many runs are recorded as one graph: to launch a kernel from Python takes longer than most of them run. Caches are warm,
    as they are within a step.
    """
    run()  # compiles
    torch.cuda.synchronize()
    begun = time.perf_counter()
    run()
    torch.cuda.synchronize()
    launches = max(1, min(_LAUNCHES, int(_GRAPH_S / (time.perf_counter() - begun))))
    graph, beside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, stream=beside):
        for _ in range(launches):
            run()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 2 or (len(times) < _REPEATS and time.perf_counter() - begun < _BUDGET_S):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / launches)
    return statistics.median(times)


def time_launched_ms(run: Callable[[], object]) -> float:
    """Return the median milliseconds of one run as it is launched, with the time that launching takes."""
    times: list[float] = []
    for _ in range(_REPEATS + 2):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times[2:])
