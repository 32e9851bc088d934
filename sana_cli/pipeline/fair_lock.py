"""A lock that serves its waiters in the order in which they came; `threading.Lock` may starve one."""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType


class FairLock:
    """Use as a context manager. Not reentrant: a thread that holds it and asks again gets a RuntimeError."""

    def __init__(self, new_event: Callable[[], threading.Event] = threading.Event) -> None:
        """`new_event` makes what a waiter waits for."""
        self._new_event = new_event
        self._inside = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._owner: int | None = None

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._inside:
            if self._owner == me:
                raise RuntimeError("this thread draws with this pipeline already")
            if self._owner is None:
                self._owner = me
                return
            turn = self._new_event()
            self._waiting.append(turn)
        try:
            turn.wait()
        except BaseException:  # Ctrl-C while waiting: give the place up
            with self._inside:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:  # it was our turn a moment ago
                    self._pass_on()
            raise
        with self._inside:
            self._owner = me

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._inside:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._waiting:
            self._owner = -1  # nobody's, and not free: it belongs to the one that wakes up
            self._waiting.popleft().set()
        else:
            self._owner = None
