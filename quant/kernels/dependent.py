"""Dependent launches, on NVIDIA's devices from 9.0 on: a kernel is launched while the one before it ends, and waits for it itself.

A kernel that is launched so waits before it reads or writes anything (`waiting.py`). What it waits for is the whole kernel before
it, which has waited in the same way; so all that was launched earlier is done as well, and orders are those of usual launches.
A kernel that is launched as usual, a library's too, begins when all before it has ended.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

FIRST_CAPABILITY = (9, 0)
_wanted: ContextVar[bool] = ContextVar("dependent launches", default=False)


@contextmanager
def dependent_launches(device: torch.device) -> Iterator[bool]:
    """Launch kernels so within the block, where the device can; yields whether it can."""
    token = _wanted.set(can_depend(device))
    try:
        yield _wanted.get()
    finally:
        _wanted.reset(token)


def can_depend(device: torch.device) -> bool:
    """Return whether a device takes dependent launches."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= FIRST_CAPABILITY


def launch_options() -> dict[str, bool]:
    """The constant of a kernel that can wait, and Triton's option of its launch."""
    return {"DEPENDENT": True, "launch_pdl": True} if _wanted.get() else {"DEPENDENT": False}
