"""Find the control groups that limit this process: those of containers, systemd and SLURM. No torch."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

OWN = Path("/proc/self")  # says which groups the process is in, and where they are mounted
Version = Literal["cgroup", "cgroup2"]  # the types of file system of versions 1 and 2


def groups(controller: str, own: Path = OWN) -> Iterator[tuple[Path, Version]]:
    """The groups of a controller ("memory", "cpu") that this process is in and all above them, as far as they are
    mounted here: each may have a limit.
    """
    places: dict[str, PurePosixPath] = {}
    for line in lines(own / "cgroup"):
        controllers, _, place = line.partition(":")[2].partition(":")
        if not controllers or controller in controllers.split(","):
            places["cgroup" if controllers else "cgroup2"] = PurePosixPath(place)
    for line in lines(own / "mountinfo"):
        mount, _, kind = line.partition(" - ")
        name, _, options = (*kind.split(" ", 2), "", "")[:3]
        fields = mount.split(" ")
        if (
            name not in places
            or len(fields) < 5
            or (name == "cgroup" and controller not in options.split(","))
        ):
            continue
        version: Version = "cgroup" if name == "cgroup" else "cgroup2"
        root, folder = fields[3:5]
        group_path, top = places[version], Path(folder)
        seen = group_path.is_relative_to(root)  # else the mount is of another namespace
        inside = group_path.relative_to(root) if seen else PurePosixPath()
        for group in (top / inside, *(top / inside).parents):
            yield group, version
            if group == top:
                break


def lines(path: Path) -> list[str]:
    """The lines of a file of the kernel's; none where it does not have it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
