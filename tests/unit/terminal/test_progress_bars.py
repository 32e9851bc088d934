"""Bars: what is finished vanishes, and what takes seconds in silence has one."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

from sana_cli.terminal.progress_bars import ConsoleReporter


def titles(reporter: ConsoleReporter) -> list[str]:
    return [task.description for task in reporter._progress.tasks]


def test_finished_bars_vanish() -> None:
    with ConsoleReporter() as reporter:
        reporter.count("pictures", 1, 5)
        for _ in range(2):
            with reporter.stage("denoise", 3) as advance:
                advance()
                assert titles(reporter) == ["pictures", "denoise"]
        assert titles(reporter) == ["pictures"]
    assert titles(reporter) == []


def test_torch_is_loaded_under_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    class Watched(ConsoleReporter):
        @contextmanager
        def stage(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
            shown.append(title)
            sys.modules["torch"] = ModuleType("torch")  # importing the real one twice would fail
            with super().stage(title, total) as advance:
                yield advance

    reporter = Watched()
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))  # so that it is undone
    del sys.modules["torch"]
    reporter.load_torch()
    reporter.load_torch()
    assert shown == ["load torch"], "once"


@pytest.mark.parametrize(
    ("quiet", "silence", "lines"), [(False, 0, 3), (False, 60, 0), (True, 0, 0)]
)
def test_a_log_shows_that_work_is_done(
    quiet: bool, silence: float, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with ConsoleReporter(quiet=quiet, silence=silence) as reporter:
        with reporter.stage("calibrate", 2) as advance:
            advance()
            advance()
        reporter.count("transformer", 5, 10)
    written = capsys.readouterr().err.splitlines()
    assert len(written) == lines
    assert not lines or (
        written[1].startswith("calibrate 2/2") and written[2].startswith("transformer 5/10")
    )
