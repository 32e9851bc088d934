"""How commands find a server, on a system of the other kind, too."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sana_cli.remote.state_file import Running, announced, running_servers


@pytest.fixture(params=["linux", "win32"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A system; on Windows any signal to a process ends it."""
    monkeypatch.setenv("SANA_RUNTIME", str(tmp_path / "runtime"))
    if request.param == "win32":
        monkeypatch.setattr(sys, "platform", "win32")

        def kill(pid: int, number: int) -> None:
            raise AssertionError("os.kill ends the process on Windows")

        monkeypatch.setattr(os, "kill", kill)
        monkeypatch.setattr(psutil, "pid_exists", psutil.pids().__contains__)  # its own way kills
    return request.param


def test_a_server_is_found_while_it_is_announced(system: str) -> None:
    running = Running.new("127.0.0.1", 7262)
    with announced(running):
        assert running_servers() == [running]
    assert running_servers() == []


def test_a_server_whose_process_has_ended_is_passed_over(system: str) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = Running(host="127.0.0.1", port=7263, secret="s" * 43, pid=ended.pid, version="0")
    with announced(gone):
        assert running_servers() == []


def _a_link(path: Path) -> None:
    path.symlink_to(path.parent, target_is_directory=True)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such folder")
@pytest.mark.parametrize("variable", ["XDG_RUNTIME_DIR", "TMPDIR"])
@pytest.mark.parametrize("make", [Path.touch, _a_link, lambda path: path.mkdir(mode=0o777), None])
def test_a_folder_that_is_not_the_users_is_passed_over_in_silence(
    tmp_path: Path, variable: str, make: Callable[[Path], None] | None
) -> None:
    """The system's folder, or the one in its place where all may write, may be anybody's."""
    place = tmp_path / ("run" if variable == "XDG_RUNTIME_DIR" else f"runtime-{os.getuid()}")
    if make is not None:
        make(place)
    own = {"SANA_CONFIG": str(tmp_path / "none.toml"), "TMPDIR": str(tmp_path)}
    if variable == "XDG_RUNTIME_DIR":
        own[variable] = str(place)
    environment = {
        k: v for k, v in os.environ.items() if k not in ("XDG_RUNTIME_DIR", "SANA_RUNTIME")
    }
    program = "import sys; sys.argv = ['sana', 'ps']; from sana_cli.cli import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment | own, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "no server runs" in done.stdout


def test_a_file_that_goes_meanwhile_hides_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANA_RUNTIME", str(tmp_path / "runtime"))
    running = Running.new("127.0.0.1", 4242)
    with announced(running):
        (tmp_path / "runtime" / "serve-1.json").symlink_to(tmp_path / "gone")
        assert running_servers() == [running]
