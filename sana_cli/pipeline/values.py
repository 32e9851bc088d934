"""The check of values between stages: a broken stage is an error, never a black picture."""

from torch import Tensor


class BrokenValues(Exception):
    """NaN, Inf or a flat result where a picture should be."""


def check_values(tensor: Tensor, stage: str, *, flat_below: float = 0.0) -> None:
    """Raise BrokenValues for NaN, Inf, or a spread not above `flat_below`; `stage` names what produced them."""
    if not tensor.isfinite().all():
        raise BrokenValues(f"NaN or infinite values after {stage}")
    if tensor.numel() > 1 and float(tensor.float().std()) <= flat_below:
        raise BrokenValues(f"flat values after {stage}")
