"""The number of threads, by what the kernel says of cores and control groups."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from sana_cli.system import cpu
from sana_cli.system.processor import best_threads, fast_cores, quota

V1_NONE, V2_NONE = "-1 100000", "max 100000"


def own_groups(tmp_path: Path, version: str, place: str, root: str = "/") -> Path:
    """What /proc/self says of a process in the group `place`, of a mount that begins at `root`."""
    controllers, kind, options = ("", "cgroup2", "rw") if version == "v2" else (
        "cpu,cpuacct", "cgroup", "rw,cpu,cpuacct",
    )  # fmt: skip
    proc, mount = tmp_path / "proc", tmp_path / "mount"
    proc.mkdir()
    (proc / "cgroup").write_text(f"no group\n7:memory:/elsewhere\n4:{controllers}:{place}\n")
    (proc / "mountinfo").write_text(
        f"30 1 0:28 / / rw - ext4 /dev/vda rw\nnothing known - \n - cgroup2 a b\n"
        f"31 30 0:29 / /nowhere rw,relatime - cgroup cgroup rw,memory\n"
        f"32 30 0:30 {root} {mount} rw,relatime shared:9 - {kind} cgroup {options}\n"
    )
    return proc


def give_quota(group: Path, version: str, limit: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    if version == "v2":
        (group / "cpu.max").write_text(f"{limit}\n")
        return
    for name, number in zip(("quota", "period"), limit.split(), strict=True):
        (group / f"cpu.cfs_{name}_us").write_text(f"{number}\n")


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    ("place", "root", "limited"),
    [
        ("/", "/", ""),  # a container with a view of its own
        ("/user/run-1.scope", "/", "user/run-1.scope"),
        ("/slurm/job/step", "/", "slurm"),  # a group far above
        ("/docker/abc/child", "/docker/abc", "child"),
    ],
)
@pytest.mark.parametrize(("limit", "expected"), [("150000 100000", 1.5), ("20000 50000", 0.4)])
def test_quotas_of_all_groups_above(
    tmp_path: Path, version: str, place: str, root: str, limited: str, limit: str, expected: float
) -> None:
    proc = own_groups(tmp_path, version, place, root)
    give_quota(tmp_path / "mount", version, V2_NONE if version == "v2" else V1_NONE)
    assert quota(proc) is None
    give_quota(tmp_path / "mount" / limited, version, limit)
    assert quota(proc) == expected


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_tightest_quota_counts(tmp_path: Path, version: str) -> None:
    proc = own_groups(tmp_path, version, "/a/b")
    give_quota(tmp_path / "mount/a", version, "100000 100000")
    give_quota(tmp_path / "mount/a/b", version, "300000 100000")
    assert quota(proc) == 1.0


@pytest.mark.parametrize("text", ["", "max", "0 0", "a b", "5", "-5 10", "1 2 3"])
def test_a_quota_that_says_nothing(tmp_path: Path, text: str) -> None:
    proc = own_groups(tmp_path, "v2", "/")
    give_quota(tmp_path / "mount", "v2", text)
    assert quota(proc) is None
    assert quota(tmp_path / "none") is None


def give_speeds(devices: Path, place: str, speeds: Sequence[object]) -> None:
    for core, speed in enumerate(speeds):
        path = devices / f"system/cpu/cpu{core}" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{speed}\n")


CAPACITY, FREQUENCY = "cpu_capacity", "cpufreq/cpuinfo_max_freq"


@pytest.mark.parametrize("place", [CAPACITY, FREQUENCY])
@pytest.mark.parametrize(
    ("speeds", "fast"),
    [
        ([1024] * 4, 4),  # a Raspberry Pi
        ([430] * 4 + [1024] * 4, 4),  # big.LITTLE
        ([1024] + [870] * 3 + [300] * 4, 4),  # a phone: one prime core, three big ones
        ([510] * 2 + [500] * 6, 8),  # favoured cores of an ordinary processor
        ([500] * 2 + [350] * 8, 10),  # two of ten: the slower ones finish first together
        ([300, "unknown"], 2),  # not known of all
        ([300, 0], 2),
    ],
)
def test_slow_cores_take_no_equal_part(
    tmp_path: Path, place: str, speeds: Sequence[object], fast: int
) -> None:
    give_speeds(tmp_path, place, speeds)
    assert len(fast_cores(range(len(speeds)), tmp_path)) == fast


def test_only_usable_cores_are_compared(tmp_path: Path) -> None:
    give_speeds(tmp_path, CAPACITY, [400] * 4 + [1024] * 4)
    assert fast_cores({0, 1, 2}, tmp_path) == {0, 1, 2}
    assert fast_cores({3, 4, 5}, tmp_path) == {4, 5}


@pytest.mark.parametrize(
    ("usable", "fast"),
    [
        (range(20), set(range(12))),
        ({3, 15}, {3}),
        ({14, 15}, {14, 15}),  # a user who wants the efficient ones gets them
    ],
)
def test_intels_performance_cores(tmp_path: Path, usable: Sequence[int], fast: set[int]) -> None:
    for kind, cores in (("cpu_core", "0-9,10,11"), ("cpu_atom", "12-19")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "cpus").write_text(f"{cores}\n")
    give_speeds(tmp_path, FREQUENCY, [5_000_000] * 12 + [3_900_000] * 8)
    assert fast_cores(usable, tmp_path) == fast


LINUX = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux alone says it")


@LINUX
@pytest.mark.parametrize(
    ("limit", "threads"),
    [("10000 100000", 1), ("100000 100000", 1), ("99999900000 100000", cpu.cores()), (V2_NONE, cpu.cores())],
)  # fmt: skip
def test_threads_fit_quota_and_cores(tmp_path: Path, limit: str, threads: int) -> None:
    proc = own_groups(tmp_path, "v2", "/")
    give_quota(tmp_path / "mount", "v2", limit)
    assert best_threads(proc, tmp_path / "no devices") == threads


@LINUX
def test_slow_cores_are_counted_out(tmp_path: Path) -> None:
    usable = sorted(os.sched_getaffinity(0))
    give_speeds(
        tmp_path, CAPACITY, [1024 if core == usable[0] else 1 for core in range(usable[-1] + 1)]
    )
    assert best_threads(tmp_path / "no groups", tmp_path) == 1


@LINUX
@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("3", "3")])
def test_openmp_gets_the_number_unless_the_user_decides(
    monkeypatch: pytest.MonkeyPatch,
    system_file: object,
    tmp_path: Path,
    given: str | None,
    expected: str,
) -> None:
    if cpu.cores() < 2:
        pytest.skip("one core is one thread anyway")
    proc = own_groups(tmp_path, "v2", "/")
    give_quota(tmp_path / "mount", "v2", "50000 100000")
    assert callable(system_file)
    for name in ("cgroup", "mountinfo"):
        system_file(f"/proc/self/{name}", (proc / name).read_text())
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    monkeypatch.setattr(os, "environ", environment | ({"OMP_NUM_THREADS": given} if given else {}))
    cpu.limit_spinning()
    assert os.environ["OMP_NUM_THREADS"] == expected
