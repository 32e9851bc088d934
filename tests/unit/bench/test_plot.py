"""Ticks below the bars of `sana bench --plot`."""

import pytest

from sana_cli.bench.plot import _ticks


@pytest.mark.parametrize(
    ("longest", "last"),
    [(0.0123, 0.012), (0.9, 0.8), (7.9, 7), (62.7, 60), (100.0, 100), (999.0, 800)],
)
def test_round_numbers(longest: float, last: float) -> None:
    found = _ticks(longest)
    assert found[0] == 0
    assert found[-1] == last
    assert 3 <= len(found) <= 8
