"""How much memory there is, and how people write amounts of it. No torch unless a GPU is asked."""

import os
import re
from math import prod
from pathlib import Path

from sana_cli.errors import ExitCode, SanaError
from sana_cli.precision import Device
from sana_cli.resident import resident_bytes

GIB = 2**30
_UNITS = {
    "": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40,
}  # fmt: skip


def parse_bytes(text: str) -> int:
    """Read "4GiB", "4 GB", "3.5g" or "800MiB" as bytes; SanaError otherwise."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(|[kmgt]i?)b?\s*", text, re.IGNORECASE)
    amount = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    if not 2**20 <= amount < 2**50:
        raise SanaError(
            f"cannot use {text!r} as an amount of memory",
            hint="write a number and GiB, GB, MiB or MB: --max-memory 4GiB",
            code=ExitCode.USAGE,
        )
    return int(amount)


def in_gib(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / GIB:.2f} GiB"


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
    try:
        return prod(os.sysconf(name) for name in ("SC_AVPHYS_PAGES", "SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # no such call, or no such name
        return None


def _container_free(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves, without the cache that the kernel would give back."""
    try:
        limit = int((root / "memory.max").read_text(encoding="ascii"))  # "max": no number, no limit
        used = int((root / "memory.current").read_text(encoding="ascii"))
        stat = dict(
            line.split() for line in (root / "memory.stat").read_text(encoding="ascii").splitlines()
        )
        return limit - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return None
