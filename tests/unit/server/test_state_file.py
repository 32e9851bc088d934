"""How commands find a server, on a system of the other kind, too."""

import os
import subprocess
import sys
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
