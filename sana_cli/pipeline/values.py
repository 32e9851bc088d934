"""The check of values between stages: a broken stage is an error, never a black picture."""

from collections.abc import Callable

import torch
from torch import Tensor


class BrokenValues(Exception):
    """NaN, Inf or a flat result where a picture should be."""


def check_values(tensor: Tensor, stage: str, *, flat_below: float = 0.0) -> None:
    """Raise BrokenValues for NaN, Inf, or a spread not above `flat_below`; `stage` names what produced them."""
    _judge(tensor, float(_spread(tensor)), stage, flat_below)


def begin_check(tensor: Tensor, stage: str) -> Callable[[], None]:
    """Start `check_values`, and return a function that raises what it found.

    A CUDA device may work on the next step before that function waits for the result. Elsewhere the check is done at once.
    """
    if tensor.device.type != "cuda":
        check_values(tensor, stage)
        return lambda: None
    spread = _spread(tensor).to("cpu", non_blocking=True)  # torch takes pinned memory for that
    done = torch.cuda.Event()
    done.record()

    def finish() -> None:
        done.synchronize()
        _judge(tensor, float(spread), stage, 0.0)

    return finish


def _spread(tensor: Tensor) -> Tensor:
    """The standard deviation, NaN where a value is no finite number: one pass for both questions."""
    wide = tensor.float()
    return wide.std() if wide.numel() > 1 else wide.sum() * 0


def _judge(tensor: Tensor, spread: float, stage: str, flat_below: float) -> None:
    # Squares of huge values may overflow where each of them is finite, so look twice.
    if spread - spread != 0 and not tensor.isfinite().all():
        raise BrokenValues(f"NaN or infinite values after {stage}")
    if tensor.numel() > 1 and spread <= flat_below:
        raise BrokenValues(f"flat values after {stage}")
