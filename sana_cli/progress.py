"""Pass progress and notices to a reporter, and time each stage. No torch but on a CUDA device."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from sana_cli.system.redact import without_secrets
from sana_cli.text import one_line

if TYPE_CHECKING:
    import torch

STAGES = ("load", "text", "denoise", "decode", "save")  # of every picture


class Reporter(Protocol):
    """The receiver of progress and notices; `terminal/progress_bars.py` draws them, tests collect them."""

    def stage(
        self, title: str, total: int | None = None
    ) -> AbstractContextManager[Callable[[], None]]:
        """Open a stage of `total` steps (None: unknown); the yielded function advances it."""

    def notice(self, message: str) -> None:
        """Something that the user should know, in one line."""


class SilentReporter:
    """Nobody sees anything."""

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        yield lambda: None

    def notice(self, message: str) -> None:
        pass


class BarReporter:
    """A tqdm bar for each stage of countable steps, in a terminal or a notebook; notices as warnings of `logging`."""

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        if total is None:
            yield lambda: None
            return
        from tqdm.auto import tqdm

        with tqdm(desc=title, total=total) as bar:
            yield lambda: (bar.update(1), None)[1]

    def notice(self, message: str) -> None:
        logging.getLogger("sana").warning("%s", message)


class Stopwatch:
    """Seconds by stage, of one picture."""

    def __init__(self, device: "torch.device") -> None:
        self._device = device
        self.start()

    def start(self) -> None:
        """Forget what was measured: the next picture begins."""
        self._started = time.perf_counter()
        self._seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count what runs within as `stage`, whether it succeeds or not; but for stages within, which count their own."""
        started, before = time.perf_counter(), sum(self._seconds.values())
        try:
            yield
            if self._device.type == "cuda":
                import torch

                torch.cuda.synchronize(self._device)
        finally:
            spent = time.perf_counter() - started - (sum(self._seconds.values()) - before)
            self._seconds[stage] = self._seconds.get(stage, 0.0) + spent

    @property
    def seconds(self) -> dict[str, float]:
        """They add up to the total; `other` is what lies between stages, mostly memory that is given back."""
        total = time.perf_counter() - self._started
        other = max(0.0, total - sum(self._seconds.values()))
        return {**self._seconds, "other": other, "total": total}


class Formatter(logging.Formatter):
    """A record keeps to its line; a traceback has lines of its own. Neither shows a secret."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))
