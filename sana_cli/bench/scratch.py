"""A temporary folder for gigabytes, gone however the process is asked to end."""

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from quant.files import is_abandoned, lock

_PREFIX, _MARK = "sana-bench-", "alive"  # the mark is locked by the process that uses the folder


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """It is removed at the end of the block, and after a signal that ends the process, too.

    What a killed process has left goes first.
    """
    for mark in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_MARK}"):
        if is_abandoned(mark):
            shutil.rmtree(mark.parent, ignore_errors=True)
    with _leaving_by_signals(), tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        with (folder / _MARK).open("wb") as mark_file:
            lock(mark_file)
            yield folder


@contextmanager
def _leaving_by_signals() -> Iterator[None]:
    """Within the block a request to end is a SystemExit, so that what was begun is left in order."""
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # others may not
    # Under nohup, or within a program that has its own ideas, they stay as they are.
    ours = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        for each in ours:  # no second one while the folder is removed
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
