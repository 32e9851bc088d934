"""The queue between front and engine: clients take turns, and so do the jobs of one client, a picture at a time.

A job of the model that is in memory may go first, so that two models under a cap that holds one are not read again for
every picture; nobody is passed over more than `PATIENCE` times.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable

from sana_cli.server.jobs import Job

PATIENCE = 8  # pictures that may go before the one whose turn it is


class QueueFull(Exception):
    """Raised when as many requests wait as may."""


class FairQueue:
    """Jobs with pictures to draw. For any thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._clients: OrderedDict[str, deque[Job]] = OrderedDict()
        self._passed_over: dict[str, int] = {}  # times, by job
        self._changed = threading.Condition()
        self._closed = False

    def put(self, job: Job) -> None:
        """Add a job. Raises QueueFull."""
        with self._changed:
            if self._waiting() >= self._limit or self._closed:
                raise QueueFull
            self._clients.setdefault(job.client, deque()).append(job)
            self._changed.notify()

    def take(self, is_warm: Callable[[Job], bool], timeout: float | None) -> Job | None:
        """The job whose next picture is to be drawn; None after `timeout` seconds, or when closed and empty."""
        with self._changed:
            if not self._clients and not self._closed:
                self._changed.wait(timeout)
            return self._pick(is_warm) if self._clients else None

    def _pick(self, is_warm: Callable[[Job], bool]) -> Job:
        turns = [jobs[0] for jobs in self._clients.values()]
        chosen = turns[0]
        if self._passed_over.get(chosen.id, 0) < PATIENCE:
            chosen = next((job for job in turns if is_warm(job)), chosen)
        for job in turns[: turns.index(chosen)]:
            self._passed_over[job.id] = self._passed_over.get(job.id, 0) + 1
        self._passed_over.pop(chosen.id, None)
        self._remove(chosen)
        return chosen

    def put_back(self, job: Job) -> None:
        """A job with more pictures, at the end of its client's jobs; never refused."""
        with self._changed:
            self._clients.setdefault(job.client, deque()).append(job)

    def remove(self, job: Job) -> bool:
        """Take a job out. False if it is not waiting."""
        with self._changed:
            if job not in self._clients.get(job.client, ()):
                return False
            self._remove(job)
            return True

    def _remove(self, job: Job) -> None:
        jobs = self._clients[job.client]
        jobs.remove(job)
        if not jobs:
            del self._clients[job.client]
        else:
            self._clients.move_to_end(job.client)

    def order(self) -> list[Job]:
        """List the jobs that wait, about in the order in which they come."""
        with self._changed:
            rows = [list(jobs) for jobs in self._clients.values()]
        longest = max(map(len, rows), default=0)
        return [row[i] for i in range(longest) for row in rows if i < len(row)]

    def _waiting(self) -> int:
        return sum(len(jobs) for jobs in self._clients.values())

    def __len__(self) -> int:
        with self._changed:
            return self._waiting()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Take no more jobs; those that wait are still given out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
