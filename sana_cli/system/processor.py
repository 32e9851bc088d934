"""Count the threads that finish a product first: by affinity, the quota of containers, and kinds of cores. No torch.

Each product is divided into equal parts, and ends with the last of them. A core that is half as fast makes all others
wait, and a thread more than a quota allows is stopped in the middle of a part, a tenth of a second each time.
"""

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sana_cli.system.control_groups import OWN, groups, lines

_DEVICES = Path("/sys/devices")


def best_threads(own: Path = OWN, devices: Path = _DEVICES) -> int | None:
    """Return how many threads should share a product; None where the system does not say (macOS, Windows).

    There, torch itself counts the performance cores, or takes all.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    usable = os.sched_getaffinity(0)
    count = len(fast_cores(usable, devices))
    allowed = quota(own)
    # Rounded up: what a thread is stopped for, the others may use.
    return count if allowed is None else max(1, min(count, math.ceil(allowed)))


def quota(own: Path = OWN) -> float | None:
    """Return the processor's seconds a second that this process may use; None without a limit."""
    found = [limit for group, version in groups("cpu", own) for limit in _limits(group, version)]
    return min(found, default=None)


def _limits(group: Path, version: str) -> Iterator[float]:
    if version == "cgroup2":  # "max 100000", or microseconds of every 100000
        text = " ".join(lines(group / "cpu.max")[:1])
    else:  # -1 is no limit
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        text = " ".join(line for name in names for line in lines(group / name)[:1])
    words = text.split()
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
        yield int(words[0]) / int(words[1])


def fast_cores(usable: Iterable[int], devices: Path = _DEVICES) -> set[int]:
    """Return those of the usable cores that together finish equal parts first; all where they are alike.

    Intel's hybrid processors name their performance cores. Elsewhere the kernel gives each core a capacity, or its
    highest frequency: of n cores that are at least as fast as a slowest one, the best n times its speed is taken.
    """
    cores = set(usable)
    performance = {core for line in lines(devices / "cpu_core/cpus") for core in _listed(line)}
    if performance & cores:
        return performance & cores
    folder = devices / "system/cpu"
    for place in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        speeds = _speeds(cores, folder, place)
        if speeds:
            ranked = sorted(speeds.values(), reverse=True)
            best = max(range(len(ranked)), key=lambda i: ((i + 1) * ranked[i], i))
            return {core for core, speed in speeds.items() if speed >= ranked[best]}
    return cores


def _speeds(cores: set[int], folder: Path, place: str) -> dict[int, int]:
    """The speed of every core by a file of the kernel's; empty where it is not known of all."""
    found = {}
    for core in cores:
        text = "".join(lines(folder / f"cpu{core}" / place)[:1]).strip()
        if not text.isdecimal() or not int(text):
            return {}
        found[core] = int(text)
    return found


def _listed(text: str) -> Iterator[int]:
    """The numbers of a list such as `0-7,16`."""
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            yield from range(int(first), int(last or first) + 1)
