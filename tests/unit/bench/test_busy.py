"""Busy loops of the benchmark: they run, and none stays."""

import subprocess
import sys

import pytest

from benchmarks import busy


def test_loops_end_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        started.append(process := subprocess_popen(command))
        return process

    subprocess_popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", start)

    def interrupted() -> None:
        with busy.busy_loops(2):
            assert [process.poll() for process in started] == [None, None]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)


def test_a_loop_ends_with_whoever_started_it() -> None:
    nobody = "0"
    subprocess.run([sys.executable, "-c", busy._LOOP, nobody], timeout=60, check=True)


def test_medians() -> None:
    assert busy.medians({"job": {"quiet": {"default": [3.0, 1.0, 2.0]}}}) == {
        "job": {"quiet": {"default": 2.0}}
    }
