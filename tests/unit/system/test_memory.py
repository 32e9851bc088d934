"""How much memory there is, and how it is written."""

import mmap
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sana_cli.config.choices import parse_bytes
from sana_cli.errors import ExitCode, SanaError
from sana_cli.system import memory
from sana_cli.system.memory import free_bytes
from sana_cli.system.resident import peak_resident_bytes, resident_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GiB", 4 * 2**30),
        ("4 gib", 4 * 2**30),
        ("1.5g", 1_500_000_000),
        ("2GB", 2 * 10**9),
        ("800MiB", 800 * 2**20),
        ("2000000000", 2 * 10**9),
    ],
)
def test_amounts(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", "4", "much", "-4GiB", "4GiBs", "1e9", "2000TiB", "9999999GiB"]
)
def test_no_amounts(text: str) -> None:
    with pytest.raises(SanaError, match="amount of memory") as caught:
        parse_bytes(text)
    assert caught.value.code == ExitCode.USAGE


@pytest.mark.skipif(resident_bytes() == 0, reason="the system does not tell")
def test_own_memory() -> None:
    before, size = resident_bytes(), 50 * 2**20
    with mmap.mmap(-1, size) as block:  # not from an allocator, which may have kept freed memory
        block.write(b"x" * size)
        assert resident_bytes() - before >= 0.9 * size
    # Linux counts pages per thread and core and adds them up late: two readings differ by some.
    assert (peak_resident_bytes() or 0) >= resident_bytes() - 2**20


def test_free_memory(
    tmp_path: Path, system_file: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = free_bytes(torch.device("cpu"))
    assert found is not None
    assert 0 < found < 2**50
    assert free_bytes(torch.device("meta")) is None, "nothing to ask"
    kernel = {"MemTotal": 9, "MemFree": 1, "MemAvailable": 7, "Buffers": 0, "Cached": 0}
    more = {"Active": 0, "Inactive": 0, "Slab": 0, "SReclaimable": 0, "Shmem": 0}
    lines = [f"{name}: {size} kB\n" for name, size in {**kernel, **more}.items()]
    (tmp_path / "meminfo").write_text("".join(lines))
    monkeypatch.setattr("psutil.PROCFS_PATH", str(tmp_path))
    assert free_bytes(torch.device("cpu")) == 7 * 1024
    own = own_groups(tmp_path, "v2", "/jobs/1", "/")
    for name in ("cgroup", "mountinfo"):
        system_file(f"/proc/self/{name}", (own / name).read_text())
    group = tmp_path / "mount/jobs/1"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("50\n")
    (group / "memory.current").write_text("45\n")
    assert free_bytes(torch.device("cpu")) == 5, "the least of all"


# -- control groups ------------------------------------------------------------------------------

V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


def own_groups(tmp_path: Path, version: str, place: str, root: str) -> Path:
    """What /proc/self says of a process in the group `place`, of a mount that begins at `root`."""
    controllers, kind, options = ("", "cgroup2", "rw") if version == "v2" else (
        "cpu,memory", "cgroup", "rw,cpu,memory",
    )  # fmt: skip
    proc, mount = tmp_path / "proc", tmp_path / "mount"
    for folder in (proc, mount):
        folder.mkdir(exist_ok=True)
    (proc / "cgroup").write_text(f"7:pids:/elsewhere\n4:{controllers}:{place}\n")
    (proc / "mountinfo").write_text(
        f"30 1 0:28 / / rw - ext4 /dev/vda rw\n"
        f"31 30 0:29 / /nowhere rw,relatime - cgroup cgroup rw,pids\n"
        f"32 30 0:30 {root} {mount} rw,relatime shared:9 - {kind} cgroup {options}\n"
    )
    return proc


def give_limit(group: Path, version: str, limit: str, used: int, cache: int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    names = V2 if version == "v2" else V1
    (group / names[0]).write_text(f"{limit}\n")
    (group / names[1]).write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 500\n{names[2]} {cache}\n")


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    ("place", "root", "limited"),
    [
        ("/", "/", ""),  # a container with a view of its own
        ("/user/run-1.scope", "/", "user/run-1.scope"),  # systemd-run --scope
        ("/slurm/job/step", "/", "slurm"),  # a group far above
        ("/slurm/job/step", "/", "slurm/job"),
        ("/docker/abc", "/docker/abc", ""),  # the host's view of a container's own mount
        ("/docker/abc/child", "/docker/abc", "child"),
        ("/../other", "/", ""),  # outside of what is mounted
    ],
)
def test_limits_of_all_groups_above(
    tmp_path: Path, version: str, place: str, root: str, limited: str
) -> None:
    proc = own_groups(tmp_path, version, place, root)
    give_limit(tmp_path / "mount", version, "9223372036854771712", 0, 0)
    assert memory._container_limit(proc) is None
    give_limit(tmp_path / "mount" / limited, version, "1000", 700, 200)
    assert memory._container_limit(proc) == 1000
    assert memory._container_free(proc) == 1000 - 700 + 200


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_tightest_group_counts(tmp_path: Path, version: str) -> None:
    proc = own_groups(tmp_path, version, "/a/b", "/")
    give_limit(tmp_path / "mount/a", version, "1000", 950, 0)
    give_limit(tmp_path / "mount/a/b", version, "800", 300, 0)
    assert (memory._container_limit(proc), memory._container_free(proc)) == (800, 50)


def test_groups_without_a_limit(tmp_path: Path) -> None:
    proc = own_groups(tmp_path, "v2", "/a", "/")
    give_limit(tmp_path / "mount/a", "v2", "max", 700, 0)
    assert memory._container_limit(proc) is None
    assert memory._container_free(proc) is None
    assert memory._container_free(tmp_path / "none") is None
    (tmp_path / "mount/a/memory.high").write_text("900\n")  # where systemd slows a process down
    assert memory._container_free(proc) == 200


# -- limits of the process -------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="counted in /proc")
@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limits_of_the_process(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ulimit -v`, told by a stand-in: a real one would stay, and starve the tests that follow."""
    cpu, limit = torch.device("cpu"), 2**50
    free, total = memory.free_bytes(cpu), memory.total_bytes(cpu)
    assert free is not None
    assert total is not None

    def limits(asked: int) -> tuple[int, int]:
        mine = asked == getattr(resource, kind)
        return (limit, limit) if mine else (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    monkeypatch.setattr(resource, "getrlimit", limits)
    assert memory.total_bytes(cpu) == total, "the machine has less"
    limit = 3 * 2**20
    assert memory.total_bytes(cpu) == limit
    assert memory.free_bytes(cpu) == 0, "this process takes more already"
    (used,) = [used for _, used in memory._process_limits()]
    assert used > 100 * 2**20
    limit = used + 5 * 2**20
    assert memory.free_bytes(cpu) == pytest.approx(5 * 2**20, abs=4 * 2**20)
