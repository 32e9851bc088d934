"""Show progress bars and notices on stderr, results on stdout.

Bars appear only in a terminal; scripts and logs get notices, and a line of progress every two minutes.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from sana_cli.text import message_line, one_line

_log = logging.getLogger("sana.stages")
_SILENCE = 120.0  # seconds


class ConsoleReporter:
    """Draws the stages of a run. Use as a context manager, once a run, so that bars never outlive it."""

    def __init__(self, *, quiet: bool = False, silence: float = _SILENCE) -> None:
        """`silence`: seconds after which a line shows progress where no bars do."""
        self.console = Console(stderr=True, highlight=False, emoji=False)
        self.quiet = quiet
        self.notices = 0  # so far
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<20}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,  # the summary that follows says the same
            disable=quiet or not self.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._silence, self._last_line = silence, time.monotonic()
        self._downloads = _Downloads(self)

    def __enter__(self) -> "ConsoleReporter":
        if not self._progress.disable:
            self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._downloads.stop()
        if not self._progress.disable:  # older Rich prints an empty line even then
            self._progress.stop()
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()

    def _start(self) -> None:
        # A new display: one that is started again erases as many lines as it had before it was stopped.
        bars = self._progress.get_renderable
        self._progress.live = Live(console=self.console, transient=True, get_renderable=bars)
        self._progress.start()

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        if title in self._tasks:  # the same stage of the next picture
            self._progress.remove_task(self._tasks[title])
        task = self._tasks[title] = self._progress.add_task(title, total=total, state="")

        def advance() -> None:
            self._progress.advance(task)
            self._progress.update(task, state=self._rate(task))
            self._line(task)

        started = time.perf_counter()
        yield advance
        _log.info("%s: %.2f s", title, time.perf_counter() - started)
        # What is finished needs no bar: the summary that follows gives its time.
        self._progress.remove_task(task)
        if self._tasks.get(title) == task:
            del self._tasks[title]

    def load_torch(self) -> None:
        """Import torch, once, under a bar: it takes seconds in which nothing else would be seen."""
        if "torch" not in sys.modules:
            with self.stage("load torch"):
                import torch  # noqa: F401

    def _line(self, task: TaskID) -> None:
        """Print a line after each long silence where no bars are seen, so that a log shows that work is done."""
        now = time.monotonic()
        if self.quiet or self.console.is_terminal or now - self._last_line < self._silence:
            return
        self._last_line = now
        state = next(t for t in self._progress.tasks if t.id == task)
        line = f"{state.description} {state.fields['state']}"
        self.console.print(line, markup=False, emoji=False, soft_wrap=True)

    def _rate(self, task: TaskID) -> str:
        state = next(t for t in self._progress.tasks if t.id == task)
        done = f"{state.completed:.0f}/{state.total or 0:.0f}"
        if not state.speed:
            return done
        rate = f"{state.speed:.1f} steps/s" if state.speed >= 1 else f"{1 / state.speed:.1f} s/step"
        return f"{done}  {rate}{_left(state.time_remaining)}"

    def notice(self, message: str) -> None:
        if not self.quiet:
            self.notices += 1
            # No markup, no codes of emoji: `[a]` and `:cat:` are words of the user.
            self.console.print(
                f"note: {message_line(message)}", markup=False, emoji=False, soft_wrap=True
            )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No bars within the block, so that it can draw in the terminal."""
        shown = self._progress.live.is_started
        if shown:
            self._progress.stop()
        try:
            yield
        finally:
            if shown:
                self._start()

    def count(self, title: str, done: int, total: int) -> None:
        """Progress of work that is counted, not timed: one bar a title."""
        if title not in self._tasks:
            self._tasks[title] = self._progress.add_task(title, total=total, state="")
        task = self._tasks[title]
        self._progress.update(task, completed=done)
        remaining = next(t for t in self._progress.tasks if t.id == task).time_remaining
        self._progress.update(task, state=f"{done}/{total}{_left(remaining)}")
        self._line(task)

    def download(self, file: str, done: int, total: int) -> None:
        """Bytes of one file so far; a callback for `hub.fetch`."""
        if not self._progress.disable:
            self._downloads.update(file, done, total)


def _left(seconds: float | None) -> str:
    """Say how long a stage will still take, if that is worth saying."""
    if seconds is None or seconds < 2:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f", {minutes}:{rest:02d} left"


class _Downloads:
    """Bars of downloads, one per file, in bytes; started when the first file arrives."""

    def __init__(self, reporter: ConsoleReporter) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<48}", markup=False),
            BarColumn(bar_width=30),
            DownloadColumn(),
            console=reporter.console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._outer = reporter

    def update(self, file: str, done: int, total: int) -> None:
        if not self._tasks:
            self._outer._progress.stop()  # two live displays cannot share a terminal
            self._progress.start()
        if file not in self._tasks:
            self._tasks[file] = self._progress.add_task(one_line(file)[-48:], total=total)
        self._progress.update(self._tasks[file], completed=done, total=total)

    def stop(self) -> None:
        if self._tasks:
            self._progress.stop()
            for task in self._tasks.values():
                self._progress.remove_task(task)
            self._tasks.clear()
