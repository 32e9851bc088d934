"""The GPU suite loses nothing: items end alone, results are there after each, and it resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_suite
from benchmarks.gpu_suite import ITEMS, Item, run_suite


def item(name: str, program: str, seconds: float = 60) -> Item:
    """An item that is a few lines of Python; the answer's path is its last argument."""
    return Item(name=name, seconds=seconds, decides=name, command=(sys.executable, "-c", program))


def answers(**found: Any) -> str:
    return f"import json, sys, pathlib; pathlib.Path(sys.argv[1]).write_text(json.dumps({found!r}))"


GOOD = item("good", answers(ms=1.5))


@pytest.mark.parametrize(
    ("program", "state", "reason"),
    [
        (answers(wrong="off by 0.5"), "wrong", "off by 0.5"),
        ("raise ValueError('no such instruction')", "failed", "ValueError: no such instruction"),
        ("import os; os.kill(os.getpid(), 11)", "failed", ""),
        (answers(rows=3) + "; import time; time.sleep(60)", "timeout", ""),
        (
            "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)",
            "timeout",
            "",
        ),
    ],
    ids=["wrong", "raises", "crashes", "hangs", "hangs with a child"],
)
def test_an_item_costs_itself_alone(tmp_path: Path, program: str, state: str, reason: str) -> None:
    path = tmp_path / "gpu.json"
    limit = 3 if state == "timeout" else 60
    run_suite([item("bad", program, limit), GOOD], minutes=1, path=path)
    found = json.loads(path.read_text())["items"]
    assert found["bad"]["state"] == state
    assert reason in found["bad"]["reason"]
    assert (found["good"]["state"], found["good"]["found"]) == ("ok", {"ms": 1.5})
    assert "| good | ok |" in path.with_suffix(".md").read_text()
    if "rows" in program:
        assert found["bad"]["found"] == {"rows": 3}, "what it had found is kept"


def test_it_resumes_and_tries_failures_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, bad = tmp_path / "gpu.json", item("bad", "raise OSError('busy')")
    run_suite([bad, GOOD], minutes=1, path=path)
    capsys.readouterr()
    run_suite([bad, GOOD, item("new", answers())], minutes=1, path=path)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["new", "bad"]
    other = tmp_path / "other"
    (other / "quant").mkdir(parents=True)
    (other / "quant/layers.py").write_text("changed = True\n")
    run_suite([GOOD], minutes=1, path=path, root=other)
    assert list(json.loads(path.read_text())["items"]) == ["good"]


def test_what_does_not_fit_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = run_suite([GOOD], minutes=0.01, path=tmp_path / "gpu.json")
    assert document["items"] == {}
    assert capsys.readouterr().out.startswith("left")


def test_killed_it_has_lost_nothing_that_was_done(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.unit.bench.test_gpu_suite import *;"
        f"run_suite([GOOD, item('slow', 'import time; time.sleep(5)')], minutes=1, path=Path({str(tmp_path)!r}, 'gpu.json'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(gpu_suite.ROOT)}
    )
    path, ends = tmp_path / "gpu.json", time.monotonic() + 60
    while not path.exists() and time.monotonic() < ends:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(json.loads(path.read_text())["items"]) == ["good"]


def test_every_item_has_its_code_and_the_first_minute_is_for_what_matters() -> None:
    from benchmarks import gpu_items

    assert [each.name for each in ITEMS] == list(gpu_items.ITEMS)
    assert [each.name for each in ITEMS[:3]] == ["facts", "kernels", "picture"]
    assert sum(each.seconds for each in ITEMS[:7]) <= 8 * 60


# The others are run by the slow test below, that takes each in a process of its own, too.
@pytest.mark.parametrize("name", ["facts", "blocks"])
def test_an_item_runs_on_the_simulated_device(tmp_path: Path, name: str) -> None:
    [chosen] = [each for each in ITEMS if each.name == name]
    found = run_suite([chosen], minutes=2, path=tmp_path / "gpu.json", rehearse=True)["items"][name]
    assert (found["state"], found["reason"]) == ("ok", "")
    assert found["found"]


@pytest.mark.slow
def test_all_items_run_on_the_simulated_device(tmp_path: Path) -> None:
    found = run_suite(ITEMS, minutes=20, path=tmp_path / "gpu.json", rehearse=True)["items"]
    assert {name: outcome["state"] for name, outcome in found.items()} == {
        each.name: "ok" for each in ITEMS
    }
