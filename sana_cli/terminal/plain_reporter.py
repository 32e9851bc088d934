"""A reporter without bars, for logs and pipes: notices alone. No Rich."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from sana_cli.text import note


def draws_bars(*, quiet: bool) -> bool:
    """Check whether bars would be seen, as Rich decides it."""
    forced = any(
        os.environ.get(name) for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    )
    return not quiet and (forced or sys.stderr.isatty())


class PlainReporter:
    """The counterpart of `ConsoleReporter` where nobody would see its bars."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.notices = 0  # so far

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        del title, total
        yield lambda: None

    def notice(self, message: str) -> None:
        if not self.quiet:
            self.notices += 1
            note(message)

    @contextmanager
    def paused(self) -> Iterator[None]:
        yield
