"""Tokens are counted where the tokenizer is small, and estimated elsewhere."""

from pathlib import Path

from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.memory.text_sizes import count_tokens


def test_tokens(tmp_path: Path) -> None:
    assert count_tokens(open_checkpoint("builtin").folder, "a cat left of a pizza") > 3
    assert count_tokens(tmp_path, "x" * 400) == 101, "without a tokenizer: four letters each"
