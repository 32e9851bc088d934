"""Handle what belongs to the whole process, at its edge only: standard streams and signals that ask
it to end.
"""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO

from sana_cli.errors import ExitCode

_AT_ONCE_S = 5  # closing a terminal sends more than one signal; they are one request
_received: int | None = None


# -- standard streams ------------------------------------------------------------------------------


def set_up_streams() -> None:
    """Make standard streams safe to use: closed ones, a full stderr, and names that a terminal cannot show."""
    _occupy_closed()
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  for the whole process
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    # Notices and errors never decide how a command ends.
    raw = _Forgiving(2, "w", closefd=False)
    sys.stderr = _text(raw, sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _occupy_closed() -> None:
    """Let no file of ours be standard output: descriptors that are closed lead to nowhere, and writing to them fails."""
    while (handle := os.open(os.devnull, os.O_RDONLY)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)


class _Forgiving(io.FileIO):
    """Takes everything, whether or not it can be written."""

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def _text(raw: io.FileIO, before: TextIO | None) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=True,
        write_through=True,
    )


def flush_streams() -> bool:
    """Write out what is still held; False where stdout cannot be written, whose content is then dropped."""
    try:
        sys.stdout.flush()
        return True
    except (OSError, ValueError):  # the second: it is closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tries once more, and complains
        return False


# -- signals ---------------------------------------------------------------------------------------


class AskedToEnd(KeyboardInterrupt):
    """A signal asked the process to end. What cleans up after Ctrl-C cleans up after it, too."""


@contextmanager
def ending_by_signals(system: Any = signal) -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise `AskedToEnd`, so that what was begun is left in order.

    Windows has no SIGHUP; closing a console sends SIGBREAK there. `system` is the module `signal`.
    """
    global _received
    _received = None
    names = ("SIGTERM", "SIGHUP", "SIGBREAK")
    numbers = [getattr(system, name) for name in names if hasattr(system, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # others may not
    # Under nohup, or within a program that has its own ideas, they stay as they are.
    ours = [number for number in numbers if system.getsignal(number) == system.SIG_DFL]
    latest = -float(_AT_ONCE_S)

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        global _received
        nonlocal latest
        _received, before = _received or number, latest
        latest = time.monotonic()
        if latest - before > _AT_ONCE_S:
            raise AskedToEnd

    for number in ours:
        system.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            system.signal(number, system.SIG_DFL)


def was_asked_to_end() -> bool:
    """Return whether a signal asked this process to end: then nothing more is begun."""
    return _received is not None


def exit_code(code: int) -> int:
    """Return the exit code: 143 for SIGTERM and 129 for SIGHUP, as shells expect, instead of Ctrl-C's 130."""
    return 128 + _received if code == ExitCode.INTERRUPTED and _received is not None else code
