"""What this process holds in memory, as the kernel counts it. No torch."""

from pathlib import Path


def resident_bytes() -> int:
    """What this process holds now; 0 where the system does not tell."""
    return _own_memory("VmRSS") or 0


def peak_resident_bytes() -> int | None:
    """The most that this process has held. What getrusage tells begins with the parent's memory."""
    return _own_memory("VmHWM")


def _own_memory(field: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None
