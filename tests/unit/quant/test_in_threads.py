"""Work in threads: results in order, few at a time, errors where they are due."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from quant.in_threads import in_threads

THREADS = pytest.mark.parametrize("threads", [1, 2, 4])


@THREADS
def test_results_come_in_order(threads: int) -> None:
    def work(number: int) -> int:
        time.sleep(0.002 * (number % 3))  # later ones are done first
        return number * number

    assert list(in_threads(work, range(20), threads)) == [(i, i * i) for i in range(20)]


@THREADS
def test_few_results_wait(threads: int) -> None:
    """What was taken from the items and not yet given: one a thread, and one more."""
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 30:
            taken += 1
            yield taken

    most = 0
    for given, _ in in_threads(lambda item: item, items(), threads):
        most = max(most, taken - given + 1)
    assert most == (1 if threads == 1 else threads + 1)


@pytest.mark.parametrize("inference", [True, False])
@THREADS
def test_threads_follow_the_callers_inference_mode(threads: int, inference: bool) -> None:
    with torch.inference_mode(inference):
        found = [made for _, made in in_threads(lambda _: torch.ones(1), range(4), threads)]
    assert {each.is_inference() for each in found} == {inference}


@THREADS
def test_an_error_is_raised_where_its_result_is_due(threads: int) -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("the third")
        return number

    before = threading.active_count()
    results = in_threads(work, range(10), threads)
    assert [next(results) for _ in range(3)] == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(ValueError, match="the third"):
        next(results)
    assert threading.active_count() == before
