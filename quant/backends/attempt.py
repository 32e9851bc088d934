"""Run what may fail on a device or with a compiler that it was not made for.

A kernel's first run imports Triton, starts a C compiler, loads a driver and compiles: each of them raises what it likes
(`AssertionError` without libcuda, `CalledProcessError` of gcc, `PTXASError`, which derives from `Exception` alone).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")

# What another kernel would meet too: no memory is the caller's business, and after an error of the device (an illegal
# address) every later call of the process fails.
FATAL = (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something could not run here, in one line."""

    reason: str
    is_refusal: bool = False  # of the code itself, which will refuse tomorrow too


def attempt(run: Callable[[], T], *, fatal: tuple[type[BaseException], ...] = FATAL) -> T | Failure:
    """Return what `run` returns, or why it failed. Errors of `fatal` are raised."""
    try:
        return run()
    except fatal:
        raise
    except Exception as error:  # noqa: BLE001  see above: there is no list of what may come
        refused = isinstance(error, (NotImplementedError, ValueError))
        return Failure(first_line(error), is_refusal=refused)


def first_line(error: BaseException) -> str:
    """An error in one line; its type, where it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
