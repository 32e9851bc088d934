"""Passes of a picture, in words."""

from sana_cli.pipeline.pass_count import PassCount


def test_saved_passes_are_told() -> None:
    count = PassCount(without_savings=40, computed=30, first_block_only=4)
    assert count.saved == 10
    words = "30 of 40 passes computed, 4 ended after the first block, 6 left out"
    assert str(count) == words
