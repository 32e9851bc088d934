"""Blocks that are read when they run: one computes while the next is being read.

A network of many blocks never needs more than two of them. Whoever iterates over `StreamedBlocks` gets what iterating
over the list that it replaces would give, with the same values, so networks need not know of it. A pass may end after
the first block; once one has, no other is read before it is asked for.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from torch import nn


class StreamedBlocks(nn.Module):
    """Stands for an `nn.ModuleList` of `count` blocks; `load(i)` reads block i, ready to run."""

    def __init__(self, count: int, load: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self._count, self._load = count, load
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-blocks")
        self._first: Future[nn.Module] | None = None
        self._may_end_early = False

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, part: slice) -> "StreamedBlocks":
        if part.indices(self._count) != (0, self._count, 1):
            raise ValueError("streamed blocks run all, in order")
        return self

    def __iter__(self) -> Iterator[nn.Module]:
        coming = self._first or self._reader.submit(self._load, 0)
        self._first = None
        for i in range(self._count):
            this, block = coming, coming.result()
            following = (i + 1) % self._count  # the first one again: another pass mostly comes
            if i > 0 or not self._may_end_early:
                coming = self._reader.submit(self._load, following)
            try:
                yield block
            except GeneratorExit:
                if i == 0:  # the next pass begins with the same block
                    self._first, self._may_end_early = this, True
                raise
            if coming is this:
                coming = self._reader.submit(self._load, following)
            del this, block
        self._first = coming
