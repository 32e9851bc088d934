"""Waiters are served in the order in which they came, and one that gives up holds up nobody."""

import threading
import time
from collections.abc import Callable

import pytest

from sana_cli.pipeline.fair_lock import FairLock


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def test_first_come_first_served() -> None:
    lock, order = FairLock(), []

    def work(name: int) -> None:
        with lock:
            order.append(name)

    threads = []
    with lock:
        for name in range(8):
            thread = threading.Thread(target=work, args=(name,))
            thread.start()
            wait_until(lambda n=name: len(lock._waiting) == n + 1)
            threads.append(thread)
    for thread in threads:
        thread.join(60)
    assert order == list(range(8))


def test_one_at_a_time() -> None:
    lock, inside, most = FairLock(), [0], [0]

    def work() -> None:
        for _ in range(50):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1]


def test_a_thread_that_asks_twice_is_told() -> None:
    lock = FairLock()
    with lock, pytest.raises(RuntimeError, match="already"), lock:
        pass
    with lock:
        pass


class Interrupted(threading.Event):
    """An event whose waiting ends as by Ctrl-C, once somebody else waits, too."""

    def __init__(self, is_time: Callable[[], bool]) -> None:
        super().__init__()
        self.is_time = is_time

    def wait(self, timeout: float | None = None) -> bool:
        wait_until(self.is_time)
        raise KeyboardInterrupt

    def set(self) -> None:
        raise AssertionError("it has given up its place")


def test_an_interrupted_waiter_holds_up_nobody() -> None:
    events = iter((Interrupted(lambda: len(lock._waiting) == 2), threading.Event()))
    lock, done = FairLock(lambda: next(events)), []

    def first() -> None:
        with pytest.raises(KeyboardInterrupt), lock:
            pass
        done.append("first")

    def second() -> None:
        with lock:
            done.append("second")

    one, two = threading.Thread(target=first), threading.Thread(target=second)
    with lock:
        one.start()
        wait_until(lambda: len(lock._waiting) == 1)
        two.start()
        one.join(60)
    two.join(60)
    assert done == ["first", "second"]


def test_an_error_inside_frees_it() -> None:
    lock = FairLock()
    with pytest.raises(ValueError, match="x"), lock:
        raise ValueError("x")
    with lock:
        pass
