"""Spreads and paired ratios."""

import pytest

from sana_cli.bench.statistics import paired_ratios, quantile, spread


def test_quantiles_interpolate() -> None:
    values = [4.0, 1.0, 3.0, 2.0, 5.0]
    assert quantile(values, 0.5) == 3.0
    assert quantile(values, 0.1) == pytest.approx(1.4)
    assert quantile([7.0], 0.9) == 7.0


def test_a_spread_keeps_five_digits() -> None:
    assert spread([1.2345678, 1.2345678]) == {
        "median": 1.2346, "p10": 1.2346, "p90": 1.2346, "count": 2,
    }  # fmt: skip


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that is half as fast in one round changes neither ratio."""
    found = paired_ratios([2.0, 4.0], [1.0, 2.0])
    assert (found["median"], found["p10"], found["p90"]) == (2.0, 2.0, 2.0)
