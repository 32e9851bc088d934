"""The control groups of a process, by what the kernel says of it and of mounts."""

from pathlib import Path

import pytest

from sana_cli.system.control_groups import groups, lines


@pytest.mark.parametrize("controller", ["cpu", "memory"])
@pytest.mark.parametrize(
    ("kind", "controllers", "options"), [("cgroup2", "", "rw"), ("cgroup", "cpu,memory", "rw,cpu,memory")]
)  # fmt: skip
def test_a_group_and_all_above_it(
    tmp_path: Path, controller: str, kind: str, controllers: str, options: str
) -> None:
    (tmp_path / "cgroup").write_text(f"9:pids:/elsewhere\n4:{controllers}:/jobs/1/step\n")
    (tmp_path / "mountinfo").write_text(
        f"31 30 0:29 / /sys/pids rw - cgroup cgroup rw,pids\n"
        f"32 30 0:30 /jobs /sys/own rw shared:9 - {kind} cgroup {options}\n"
    )
    found = list(groups(controller, tmp_path))
    assert [str(place) for place, _ in found] == ["/sys/own/1/step", "/sys/own/1", "/sys/own"]
    assert {version for _, version in found} == {kind}


@pytest.mark.parametrize(
    ("own", "mounts"),
    [
        ("", ""),
        ("no group\n", "no mount\n"),
        ("0::/a\n", "- \n - cgroup2\nx - cgroup2 cgroup rw\n"),
        ("4:cpuset:/a\n", "32 30 0:30 / /sys/own rw - cgroup cgroup rw,cpuset\n"),
    ],
)
def test_what_says_nothing_is_no_group(tmp_path: Path, own: str, mounts: str) -> None:
    (tmp_path / "cgroup").write_text(own)
    (tmp_path / "mountinfo").write_text(mounts)
    assert list(groups("cpu", tmp_path)) == []
    assert list(groups("cpu", tmp_path / "none")) == []


def test_lines(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"one\n\xff two\n")
    assert lines(tmp_path / "file") == ["one", "\ufffd two"]
    assert lines(tmp_path / "none") == []
    assert lines(tmp_path) == []
