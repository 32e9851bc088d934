"""How much memory there is. No torch unless a GPU is asked."""

import os
from math import prod
from pathlib import Path

from sana_cli.precision import Device
from sana_cli.resident import resident_bytes

_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: Device) -> int | None:
    """Memory that is free for allocation now; None where the system does not tell."""
    if device.type == "cuda":
        import torch

        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + cached
    if device.type != "cpu":
        return None
    known = [value for value in (_system_free(), _container_free()) if value is not None]
    return min(known, default=None)


def total_bytes(device: Device) -> int | None:
    """All memory there is, in use or not; None where the system does not tell."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info()[1]
    if device.type != "cpu":
        return None
    known = [n for n in (_system("SC_PHYS_PAGES"), _container_limit(_CGROUP)) if n is not None]
    return min(known, default=None)


def held_bytes(device: Device) -> int:
    """What this process has there now, and could use again."""
    if device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated()
    return resident_bytes() if device.type == "cpu" else 0


def _system_free() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return _system("SC_AVPHYS_PAGES")


def _system(pages: str) -> int | None:
    try:
        return prod(os.sysconf(name) for name in (pages, "SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # no such call, or no such name
        return None


def _container_limit(root: Path) -> int | None:
    try:
        return int((root / "memory.max").read_text(encoding="ascii"))  # "max": no number, no limit
    except (OSError, ValueError):
        return None


def _container_free(root: Path = _CGROUP) -> int | None:
    """What a container's limit leaves, without the cache that the kernel would give back."""
    limit = _container_limit(root)
    if limit is None:
        return None
    try:
        used = int((root / "memory.current").read_text(encoding="ascii"))
        stat = dict(
            line.split() for line in (root / "memory.stat").read_text(encoding="ascii").splitlines()
        )
        return limit - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return None
