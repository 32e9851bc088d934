"""Do one thing to many items in a few threads, and give the results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with `work(item)`, in the order of the items; at most `threads + 1` results wait at once.

    The threads follow the caller's inference mode. With one thread the caller's own does the work, an item at a time.
    An error of `work` is raised where its result is due; what other threads have begun is finished first.
    """
    if threads == 1:
        for item in items:
            yield item, work(item)
        return
    inference = torch.is_inference_mode_enabled()  # of this thread alone

    def done(item: Item) -> Result:
        with torch.inference_mode(inference):
            return work(item)

    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="sana") as pool:
        for item in items:
            waiting.append((item, pool.submit(done, item)))
            if len(waiting) > threads:
                first, result = waiting.popleft()
                yield first, result.result()
                del result  # what it holds is the caller's alone
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
            del result
