"""A row of `benchmarks/memory.py`, whose program follows the stages that a run reports."""

from pathlib import Path

import pytest

from benchmarks.memory import measure


@pytest.mark.slow
def test_a_row_has_every_stage(tmp_path: Path) -> None:
    row = measure("builtin", "builtin", 64, "", tmp_path)
    assert list(row["measured_stages_mib"]) == ["start", "text", "denoise", "decode"]
    assert 0.5 < row["predicted_to_measured"] < 2
