"""The GPU suite loses nothing: items end alone, results are there after each, and it resumes."""

import json
import os
import random
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
HANGS = "; import os, pathlib, time; pathlib.Path(os.environ['HANGS']).touch(); time.sleep(600)"


@pytest.mark.parametrize(
    ("program", "state", "reason"),
    [
        (answers(wrong="off by 0.5"), "wrong", "off by 0.5"),
        ("raise ValueError('no such instruction')", "failed", "ValueError: no such instruction"),
        ("import os; os.kill(os.getpid(), 11)", "failed", ""),
        (answers(rows=3) + HANGS, "timeout", ""),
        ("import subprocess; subprocess.Popen(['sleep', '60'])" + HANGS, "timeout", ""),
    ],
    ids=["wrong", "raises", "crashes", "hangs", "hangs with a child"],
)
def test_an_item_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, state: str, reason: str
) -> None:
    path = tmp_path / "gpu.json"
    monkeypatch.setenv("HANGS", str(tmp_path / "hangs"))
    waits = subprocess.Popen.wait

    def wait(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        """An item's time is over when it hangs: how soon it comes so far depends on what else runs."""
        while timeout is not None and process.poll() is None:
            if (tmp_path / "hangs").exists():
                (tmp_path / "hangs").unlink()
                raise subprocess.TimeoutExpired(process.args, timeout)
            time.sleep(0.01)
        return waits(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    run_suite([item("bad", program), GOOD], minutes=5, path=path)
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


ITEM_PROGRAM = (
    "import json, sys, time, pathlib; out = pathlib.Path(sys.argv[1]); time.sleep(0.05);"
    "log = pathlib.Path({log!r}); log.open('a').write({name!r} + '\\n');"
    "out.write_text(json.dumps({{'name': {name!r}}}))"
)


def counted_items(folder: Path) -> list[Item]:
    """Five items, each of which adds a line to a file when it runs."""
    log = str(folder / "ran")
    return [item(name, ITEM_PROGRAM.format(log=log, name=name)) for name in "abcde"]


def state_of(path: Path) -> dict[str, Any]:
    """The items of a document that is whole at any time."""
    return json.loads(path.read_text())["items"] if path.exists() else {}


@pytest.mark.parametrize(
    ("seed", "kills"), [(0, 3), *(pytest.param(s, 10, marks=pytest.mark.slow) for s in range(4))]
)
def test_killed_anywhere_it_has_lost_nothing_that_was_done(
    tmp_path: Path, seed: int, kills: int
) -> None:
    """Killed at random moments: what was finished stays, and no finished item runs again."""
    path, moments = tmp_path / "gpu.json", random.Random(seed)
    program = (
        "from pathlib import Path; from tests.unit.bench.test_gpu_suite import *;"
        f"run_suite(counted_items(Path({str(tmp_path)!r})), minutes=1, path=Path({str(path)!r}))"
    )
    environment = os.environ | {"PYTHONPATH": str(gpu_suite.ROOT)}
    done: dict[str, Any] = {}
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", program], env=environment)
        ends = time.monotonic() + moments.uniform(0.2, 2.0)
        while process.poll() is None and time.monotonic() < ends:
            time.sleep(0.01)
        process.kill()
        process.wait()
        now = state_of(path)
        assert done.items() <= now.items(), "what was finished is as it was"
        assert not [each for each in now.values() if each["state"] != "ok"]
        done = now
    run_suite(counted_items(tmp_path), minutes=1, path=path)
    assert list(state_of(path)) == list("abcde")
    ran = (tmp_path / "ran").read_text().split()
    for name in done:
        assert ran.count(name) <= 1 + kills
    run_suite(counted_items(tmp_path), minutes=1, path=path)
    assert (tmp_path / "ran").read_text().split() == ran, "nothing is left to do"


def test_what_is_not_installed_is_skipped_and_told(tmp_path: Path) -> None:
    path, absent = (
        tmp_path / "gpu.json",
        item("absent", answers(skipped="diffusers is not installed")),
    )
    run_suite([absent, GOOD], minutes=1, path=path)
    found = state_of(path)["absent"]
    assert (found["state"], found["reason"]) == ("skipped", "diffusers is not installed")
    assert "| absent | skipped |" in path.with_suffix(".md").read_text()


def test_every_item_has_its_code_and_the_first_minute_is_for_what_matters() -> None:
    from benchmarks import gpu_items

    assert [each.name for each in ITEMS] == list(gpu_items.ITEMS)
    assert [each.name for each in ITEMS[:4]] == ["facts", "kernels", "picture", "picture-0.6b"]
    assert sum(each.seconds for each in ITEMS[:7]) <= 8 * 60


# The others are run by the slow test below, that takes each in a process of its own, too.
@pytest.mark.parametrize("name", ["facts", "blocks"])
def test_an_item_runs_on_the_simulated_device(tmp_path: Path, name: str) -> None:
    [chosen] = [each for each in ITEMS if each.name == name]
    found = run_suite([chosen], minutes=2, path=tmp_path / "gpu.json", rehearse=True)["items"][name]
    assert (found["state"], found["reason"]) == ("ok", "")
    assert found["found"]


# What an image for CUDA may lack, besides what only some commands of sana need.
ABSENT = (
    "diffusers",
    "platformdirs",
    "tomlkit",
    "textual_image",
    "prompt_toolkit",
    "transformers",
    "torchao",
)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("absent", [(), ABSENT], ids=["all is installed", "little is installed"])
def test_all_items_run_on_the_simulated_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: tuple[str, ...]
) -> None:
    """Every item ends, and every line of the suite and of its items is run: none is new on the day of a device."""
    hook = tmp_path / "startup" / "sitecustomize.py"
    hook.parent.mkdir()
    hook.write_text(HOOK.format(absent=absent))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(hook.parent), str(gpu_suite.ROOT)]))
    monkeypatch.setenv("COVERAGE_FILE", str(tmp_path / "lines"))
    command = [sys.executable, "-m", "benchmarks.gpu_suite", "--rehearse", "--minutes", "40"]
    started = time.monotonic()
    subprocess.run([*command, "--out", str(tmp_path)], cwd=gpu_suite.ROOT, check=True)
    assert time.monotonic() - started < 40 * 60
    [path] = tmp_path.glob("gpu-*.json")
    states = {name: each["state"] for name, each in state_of(path).items()}
    skipped = {"diffusers"} if absent else set()
    assert states == {each.name: "skipped" if each.name in skipped else "ok" for each in ITEMS}
    if not absent:
        program = f"from tests.unit.bench.test_gpu_suite import *; fail_in_all_ways(Path({str(tmp_path)!r}))"
        subprocess.run([sys.executable, "-c", program], cwd=gpu_suite.ROOT, check=True)
        share = lines_run(tmp_path)
        assert min(share.values()) > 0.95, share
        assert "## Plots" in path.with_suffix(".md").read_text()


def fail_in_all_ways(folder: Path) -> None:
    """What a sound dry run does not meet: items that raise, hang, are skipped or left, a machine with a driver."""
    bad = [
        item("raises", "raise ValueError('no')"), item("hangs", "import time; time.sleep(60)", 1),
        item("wrong", answers(wrong="off", rows=[{"ms": 1.0}], more={"a": 1})), item("absent", answers(skipped="no")),
    ]  # fmt: skip
    run_suite(bad, minutes=1, path=folder / "failed.json")
    run_suite(bad, minutes=0.001, path=folder / "failed.json")
    gpu_suite._device()


HOOK = """
import importlib.abc, sys
import coverage

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

if {absent!r}:
    import importlib.util
    found = importlib.util.find_spec
    sys.meta_path.insert(0, Absent())
    importlib.util.find_spec = lambda name, *rest: None if name in {absent!r} else found(name, *rest)
else:
    measured = coverage.Coverage(data_suffix=True, include=["*/benchmarks/gpu_*.py"], messages=False)
    measured.start()
    import atexit
    atexit.register(lambda: (measured.stop(), measured.save()))
"""


def lines_run(folder: Path) -> dict[str, float]:
    """The share of the lines of each file of the suite that some process has run."""
    import coverage

    measured = coverage.Coverage(data_file=str(folder / "lines"))
    measured.combine([str(folder)])
    found = {}
    for name in ("gpu_suite", "gpu_items", "gpu_whole", "gpu_plots"):
        _, lines, _, missing, _ = measured.analysis2(str(gpu_suite.ROOT / f"benchmarks/{name}.py"))
        found[name] = 1 - len(missing) / len(lines)
    return found
