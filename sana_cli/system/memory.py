"""Read how much memory there is. No torch unless a GPU is asked."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sana_cli.system.control_groups import OWN, groups, lines
from sana_cli.system.precision import Device
from sana_cli.system.resident import resident_bytes

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

_NO_LIMIT = 2**60  # bytes; the first version of control groups writes a larger number for none


def free_bytes(device: Device) -> int | None:
    """Return the bytes free for allocation now; None if the system does not report them."""
    if device.type == "cuda":
        import torch

        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + cached
    if device.type != "cpu":
        return None
    import psutil

    known = [psutil.virtual_memory().available, _container_free(), _process_free()]
    return min((value for value in known if value is not None), default=None)


def total_bytes(device: Device) -> int | None:
    """Return the bytes of all memory, in use or not; None if the system does not report them."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info()[1]
    if device.type != "cpu":
        return None
    import psutil

    known = [psutil.virtual_memory().total, _container_limit(), _process_limit()]
    return min((value for value in known if value is not None), default=None)


def held_bytes(device: Device) -> int:
    """Return the bytes that this process holds on the device and could use again."""
    if device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated()
    return resident_bytes() if device.type == "cpu" else 0


# -- control groups: containers, systemd, SLURM ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Files:
    """Names that a version of control groups gives to its files."""

    limits: tuple[str, ...]
    used: str
    cache: str  # in memory.stat: what the kernel gives back, of the group and those below it


_VERSIONS = {
    "cgroup2": _Files(("memory.max", "memory.high"), "memory.current", "inactive_file"),
    "cgroup": _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
}


def _container_limit(own: Path = OWN) -> int | None:
    """The lowest limit of this process's groups; None without one."""
    found = (_limit(group, _VERSIONS[version]) for group, version in groups("memory", own))
    return min((limit for limit in found if limit is not None), default=None)


def _container_free(own: Path = OWN) -> int | None:
    """Return the bytes left under its groups' limits, not counting cache that the kernel would give back."""
    found = (_left(group, _VERSIONS[version]) for group, version in groups("memory", own))
    return min((left for left in found if left is not None), default=None)


def _limit(group: Path, files: _Files) -> int | None:
    limits = [int(text) for name in files.limits for text in lines(group / name) if text.isdigit()]
    return min((limit for limit in limits if limit < _NO_LIMIT), default=None)


def _left(group: Path, files: _Files) -> int | None:
    limit = _limit(group, files)
    used = next(iter(lines(group / files.used)), "")
    if limit is None or not used.isdigit():
        return None
    stat = dict(line.split(" ", 1) for line in lines(group / "memory.stat"))
    return max(0, limit - int(used) + int(stat.get(files.cache, 0)))


# -- limits of the process: ulimit -v and -d ---------------------------------------------------------


def _process_limits(own: Path = OWN) -> Iterator[tuple[int, int]]:
    """Limit and what is used of it, of addresses and of data."""
    if resource is None:
        return
    pages = next(iter(lines(own / "statm")), "").split(" ")
    for kind, field in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            used = int(pages[field]) * resource.getpagesize() if len(pages) > field else 0
            yield limit, used


def _process_limit() -> int | None:
    return min((limit for limit, _ in _process_limits()), default=None)


def _process_free() -> int | None:
    return min((max(0, limit - used) for limit, used in _process_limits()), default=None)
