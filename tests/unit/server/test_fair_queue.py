"""Turns of clients and jobs, and models that stay in memory for a while."""

from types import SimpleNamespace
from typing import Any

import pytest

from sana_cli.server.fair_queue import PATIENCE, FairQueue, QueueFull


def job(client: str, name: str, model: str = "a") -> Any:
    return SimpleNamespace(client=client, id=name, model=model)


def taken(queue: FairQueue, count: int, warm: str = "") -> str:
    found = [queue.take(lambda job: job.model == warm, 0) for _ in range(count)]  # type: ignore[attr-defined]
    return "".join(each.id for each in found if each is not None)


def test_clients_take_turns() -> None:
    queue = FairQueue(10)
    for name in "123":
        queue.put(job("many", name))
    queue.put(job("one", "x"))
    assert "".join(each.id for each in queue.order()) == "1x23"
    assert taken(queue, 4) == "1x23"


def test_a_job_with_more_pictures_goes_to_the_end_of_its_client() -> None:
    queue = FairQueue(10)
    first, second = job("c", "1"), job("c", "2")
    queue.put(first)
    queue.put(second)
    assert queue.take(lambda job: False, 0) is first
    queue.put_back(first)
    assert taken(queue, 2) == "21"


def test_the_model_in_memory_goes_first_but_not_for_ever() -> None:
    queue = FairQueue(100)
    queue.put(job("cold", "x", model="b"))
    for number in range(2 * PATIENCE):
        queue.put(job(f"warm{number}", "w"))
    order = taken(queue, 2 * PATIENCE + 1, warm="a")
    assert order.index("x") == PATIENCE


def test_a_full_or_closed_queue_takes_nothing() -> None:
    queue = FairQueue(1)
    queue.put(job("c", "1"))
    with pytest.raises(QueueFull):
        queue.put(job("d", "2"))
    queue.close()
    assert taken(queue, 2) == "1"
    with pytest.raises(QueueFull):
        queue.put(job("d", "3"))


def test_what_waits_can_be_removed_once() -> None:
    queue = FairQueue(5)
    one = job("c", "1")
    queue.put(one)
    assert queue.remove(one)
    assert not queue.remove(one)
    assert len(queue) == 0
