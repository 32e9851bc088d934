"""How our threads wait for each other: a short spin, unless the user decides."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sana_cli.system import cpu

PRINTS = "import os; print([os.environ.get(n) for n in ('GOMP_SPINCOUNT', 'KMP_BLOCKTIME')])"


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cpu.WAITING_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def spins(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What `limit_spinning` leaves in the environment, which is put back afterwards."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    cpu.limit_spinning()
    return {name: os.environ[name] for name in cpu.WAITING_VARIABLES if name in os.environ}


def test_threads_spin_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    found = spins(monkeypatch)
    assert int(found["GOMP_SPINCOUNT"]) <= 10_000
    assert int(found["KMP_BLOCKTIME"]) <= 5
    assert not cpu.spinning()


@pytest.mark.parametrize("name", cpu.WAITING_VARIABLES)
def test_the_user_decides(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "12")
    assert spins(monkeypatch) == {name: "12"}


def test_a_number_of_threads_does_not_say_how_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert "GOMP_SPINCOUNT" in spins(monkeypatch)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("OMP_WAIT_POLICY", "ACTIVE", "OMP_WAIT_POLICY=active"),
        ("OMP_WAIT_POLICY", "passive", ""),
        ("GOMP_SPINCOUNT", "300000", "GOMP_SPINCOUNT=300000"),
        ("GOMP_SPINCOUNT", "infinity", "GOMP_SPINCOUNT=infinity"),
        ("GOMP_SPINCOUNT", "0", ""),
        ("KMP_BLOCKTIME", "200", "KMP_BLOCKTIME=200"),
        ("KMP_BLOCKTIME", "0", ""),
        ("KMP_LIBRARY", "turnaround", "KMP_LIBRARY=turnaround"),
    ],
)
def test_who_made_threads_spin(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, found: str
) -> None:
    monkeypatch.setenv(name, value)
    assert cpu.spinning() == found


EDGES = {
    "command": "from sana_cli import cli; sys.argv = ['sana', '--version']\ntry: cli.run()\nexcept SystemExit: pass\n",
    "bench": "from sana_cli.bench import worker; worker.main()\n",
}


@pytest.mark.parametrize("edge", EDGES)
def test_every_process_of_ours_sets_it_before_torch(edge: str, tmp_path: Path) -> None:
    program = f"import sys\n{EDGES[edge]}assert 'torch' not in sys.modules\n{PRINTS}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    told = done.stdout + done.stderr  # a worker's stdout is for its answers
    assert "['1000', '1']" in told, told


def test_the_library_changes_nothing() -> None:
    program = f"import sana_cli.cli, sana_cli.system.cpu\n{PRINTS}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[None, None]", done.stderr


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({"OMP_DYNAMIC": "TRUE"}, None),
        ({"OMP_THREAD_LIMIT": "1"}, "1"),
        ({"OMP_THREAD_LIMIT": "1", "OMP_NUM_THREADS": "4"}, "1"),
        ({"OMP_THREAD_LIMIT": "999", "OMP_NUM_THREADS": "2"}, "2"),
        ({"OMP_THREAD_LIMIT": "x"}, None),
    ],
)
def test_as_many_threads_as_are_promised(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], threads: str | None
) -> None:
    """With fewer, torch leaves parts of its results uncomputed, and the weights were blamed for NaN."""
    for name in ("OMP_DYNAMIC", "OMP_THREAD_LIMIT", "OMP_NUM_THREADS", *cpu.WAITING_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", {**os.environ, **given})
    cpu.limit_spinning()
    assert os.environ.get("OMP_NUM_THREADS") == threads
    assert os.environ.get("OMP_DYNAMIC") in (None, "FALSE")


@pytest.mark.parametrize("variable", ["OMP_DYNAMIC=TRUE", "OMP_THREAD_LIMIT=1"])
def test_a_picture_with_fewer_threads(tmp_path: Path, variable: str) -> None:
    """In a process of its own, since OpenMP reads its variables once."""
    name, _, value = variable.partition("=")
    words = ["generate", "a cat", "--size", "64", "--steps", "1", "-q", "--no-prompt-cache", "-o"]
    done = subprocess.run(
        [sys.executable, "-m", "sana_cli", *words, str(tmp_path / "a.png")],
        env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {name: value},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
