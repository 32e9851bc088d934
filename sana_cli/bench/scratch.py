"""A temporary folder for gigabytes, gone however the process is asked to end."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quant.files import is_abandoned, lock

_PREFIX, _MARK = "sana-bench-", "alive"  # the mark is locked by the process that uses the folder


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a temporary folder that is removed at the end of the block, and remove those of killed
    processes first.

    A signal that ends the process is an exception here (`process`).
    """
    for mark in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_MARK}"):
        if is_abandoned(mark):
            shutil.rmtree(mark.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        with (folder / _MARK).open("wb") as mark_file:
            lock(mark_file)
            yield folder
