"""Blocks that are read when they run."""

import gc
import time
import weakref

import pytest
import torch
from torch import nn

from sana_cli.loading.streaming import StreamedBlocks


def test_blocks_come_in_order_and_go_again() -> None:
    read: list[int] = []
    alive: list[weakref.ref[nn.Module]] = []

    def load(i: int) -> nn.Module:
        read.append(i)
        block = nn.Linear(1, 1)
        nn.init.constant_(block.bias, float(i))
        alive.append(weakref.ref(block))
        return block

    blocks = StreamedBlocks(5, load)
    assert len(blocks) == 5
    for _ in range(2):
        seen, most = [], 0
        for block in blocks[:5]:
            assert isinstance(block, nn.Linear)
            seen.append(int(block.bias))
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))
        assert seen == [0, 1, 2, 3, 4]
        assert most <= 3, (
            "the one that runs, the one that is read, the one before until it is replaced"
        )
    deadline = time.monotonic() + 60
    while len(read) < 11 and time.monotonic() < deadline:  # another thread reads
        time.sleep(0.01)
    assert read[:11] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0], "the next pass is prepared"
    assert read.count(0) == 3


def test_a_pass_that_ends_after_the_first_block_reads_no_other() -> None:
    """And the next one begins with the block that is there. It cannot be known the first time."""
    read: list[int] = []

    def load(i: int) -> nn.Module:
        read.append(i)
        return nn.Identity()

    blocks = StreamedBlocks(3, load)
    for _ in range(4):
        for _block in blocks:
            break
    assert len(list(blocks)) == 3
    assert read[:4] == [0, 1, 1, 2]


def test_errors_reach_whoever_runs_the_blocks() -> None:
    def load(i: int) -> nn.Module:
        if i == 2:
            raise MemoryError
        return nn.Identity()

    with pytest.raises(MemoryError):
        list(StreamedBlocks(4, load))


def test_only_all_blocks_in_order() -> None:
    blocks = StreamedBlocks(3, lambda i: nn.Identity())
    with pytest.raises(ValueError, match="all, in order"):
        blocks[1:]
    assert blocks.state_dict() == {}
    assert list(blocks.parameters()) == []
    assert torch.equal(next(iter(blocks))(torch.ones(2)), torch.ones(2))
