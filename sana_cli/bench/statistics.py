"""Medians, percentiles and paired ratios of repeated timings. No torch."""

import statistics
from collections.abc import Sequence
from typing import Any


def quantile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between the ordered values; `share` 0..1."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, p10, p90 and the number of values."""
    return {
        "median": rounded(statistics.median(values)),
        "p10": rounded(quantile(values, 0.1)),
        "p90": rounded(quantile(values, 0.9)),
        "count": len(values),
    }


def paired_ratios(slow: Sequence[float], fast: Sequence[float]) -> dict[str, Any]:
    """Return how many times as fast the second is, round by round: noise of the machine hits both alike."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def rounded(value: float) -> float:
    """Five digits that count."""
    return float(f"{value:.5g}")
