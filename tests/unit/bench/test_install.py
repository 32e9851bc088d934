"""The benchmark of installations measures what a stranger gets, and counts what `sana doctor` says."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.install import clean, problems_of, table
from sana_cli.doctor import Finding


def _finding(state: Any) -> Finding:
    return Finding(topic="disk", state=state, text="it is full", remedy="make room")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_problems_are_those_that_doctor_counts(count: int, examined: Callable[..., Any]) -> None:
    told = examined(disk=lambda: iter([_finding("note"), *[_finding("problem")] * count]))
    assert problems_of(told.out + told.err) == count


def test_an_answer_without_a_count_is_none() -> None:
    with pytest.raises(ValueError, match="has counted no problems"):
        problems_of("Traceback (most recent call last):\n  problem\n")


def test_settings_of_whoever_measures_are_not_measured() -> None:
    kept = {"PATH": "/usr/bin", "UV_FIND_LINKS": "wheels"}
    assert clean({**kept, "SANA_MODEL": "sana-0.6b", "XDG_RUNTIME_DIR": "/run"}) == kept


def test_the_table_has_a_row_per_tool() -> None:
    row = {"tool": "uv", "install_s": 41.6, "megabytes": 1009, "first_picture_s": 8.64, "problems_of_doctor": 0}  # fmt: skip
    assert table([row]).splitlines()[-1] == "| uv | 42 s | 1,009 MB | 8.6 s | 0 problems |"
