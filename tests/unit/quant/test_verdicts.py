"""What was measured is remembered, also by processes that end at the same moment."""

import functools
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from quant.backends import verdicts
from quant.backends.verdicts import remembered
from tests.rehearsal.device import CUDA
from tests.rehearsal.install import install

CPU = torch.device("cpu")


def test_processes_do_not_lose_each_others_verdicts(tmp_path: Path) -> None:
    path = tmp_path / "cache/kernels.json"

    def decide(number: int) -> str:
        return remembered(f"kind {number}", CPU, lambda: f"kernel {number}", verdicts=path)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decide, range(40)))
    assert sorted(json.loads(path.read_text()).values()) == sorted(f"kernel {i}" for i in range(40))
    assert list(path.parent.iterdir()) == [path], "no lock stays"


def test_the_first_of_two_decides(tmp_path: Path) -> None:
    """A seed stays one picture on one machine."""
    path = tmp_path / "kernels.json"

    def slow() -> str:
        assert remembered("kind", CPU, lambda: "first", verdicts=path) == "first"
        return "second"

    assert remembered("kind", CPU, slow, verdicts=path) == "first"


@pytest.fixture(params=["a folder", "below a file", "in a circle of links"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A name that no verdicts can be written under, by nobody."""
    path = tmp_path / "above/kernels.json"
    if request.param == "a folder":
        path.mkdir(parents=True)
    elif request.param == "below a file":
        path.parent.touch()
    else:
        path.parent.symlink_to(path.parent)
    return path


def test_without_a_place_to_write_no_clock_decides(unwritable: Path, tmp_path: Path) -> None:
    """Each process would decide by chance between kernels that are about as fast, and draw other bits."""
    before, measured = sorted(tmp_path.rglob("*")), []

    def decide() -> str:
        measured.append(1)
        return "the fastest now"

    for _ in range(2):
        said = remembered("kind", CPU, decide, verdicts=unwritable, unmeasured=lambda: "the usual")
        assert said == "the usual"
    assert measured == []
    assert sorted(tmp_path.rglob("*")) == before


def test_without_a_place_to_write_a_process_decides_once(unwritable: Path) -> None:
    verdicts = iter("ab")
    for _ in range(2):
        assert remembered("kind", CPU, lambda: next(verdicts), verdicts=unwritable) == "a"
    for verdict in "cd":
        assert remembered("kind", CPU, lambda v=verdict: v, verdicts=None) == verdict


def test_a_verdict_that_could_not_be_written_holds_for_this_process(tmp_path: Path) -> None:
    path, verdicts = tmp_path / "kernels.json", iter("ab")

    def decide() -> str:
        path.mkdir(exist_ok=True)  # while it is measured
        return next(verdicts)

    for _ in range(2):
        assert remembered("kind", CPU, decide, verdicts=path) == "a"


def test_a_passing_verdict_holds_for_this_process_alone(
    tmp_path: Path, interpreted: Callable[..., Any]
) -> None:
    """A compiler may be there tomorrow, and memory."""
    path, asked = tmp_path / "kernels.json", []

    def decide() -> str:
        asked.append(1)
        return verdicts.Passing("fails (no gcc)")

    for _ in range(2):
        assert remembered("kind", CPU, decide, verdicts=path) == "fails (no gcc)"
    assert (len(asked), path.exists()) == (1, False)
    decide_there = functools.partial(str, "right")
    assert interpreted(remembered, "kind", CPU, decide_there, verdicts=path) == "right"
    assert list(json.loads(path.read_text()).values()) == ["right"]


@pytest.mark.parametrize("changes", ["capability", "triton", "driver"])
def test_another_device_driver_or_compiler_is_asked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: str
) -> None:
    def machine(capability: tuple[int, int], triton: str, driver: str) -> None:
        install(monkeypatch.setattr, capability=capability)
        monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__=triton))
        (tmp_path / "driver").write_text(driver)

    def ask(verdict: str) -> str:
        return remembered(
            "kind", CUDA, lambda: verdict, verdicts=tmp_path / "kernels.json",
            driver_file=tmp_path / "driver",
        )  # fmt: skip

    facts: dict[str, Any] = {"capability": (8, 9), "triton": "3.7", "driver": "550"}
    machine(**facts)
    assert ask("before") == "before"
    assert ask("after") == "before"
    machine(**facts | {changes: {"capability": (9, 0)}.get(changes, "580")})
    assert ask("after") == "after"
