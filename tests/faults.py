"""Functions that fail, to be called in a run's stages (`at_stage` of conftest.py)."""

import errno
import itertools
import tempfile
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

# What a run can be asked for by name: before a network's weights are opened, and before it computes.
STAGES = ("load text", "text", "load denoise", "denoise", "load decode", "decode", "save")


def full_disk(folder: Path, files: Container[int]) -> Callable[..., tuple[int, str]]:
    """`tempfile.mkstemp` where `folder` has no space for the new files of these numbers, the first being 1."""
    make, number = tempfile.mkstemp, itertools.count(1)

    def mkstemp(**options: Any) -> tuple[int, str]:
        if options.get("dir") == folder and next(number) in files:
            raise OSError(errno.ENOSPC, "No space left on device")
        return make(**options)

    return mkstemp


def raising(error: BaseException, times: int | None = None) -> Callable[..., Any]:
    """Raise the error, in every call or in the first `times`."""
    left = [times]

    def fail(*_: object, **__: object) -> None:
        if left[0] is None:
            raise error
        if left[0]:
            left[0] -= 1
            raise error

    return fail
