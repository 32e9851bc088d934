"""Jobs: what was asked for, how far it is, and who listens.

A job belongs to the event loop's thread. The engine's thread only calls `post`, which hands an event over.
"""

import asyncio
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import SanaError
from sana_cli.request.params import GenerationParams
from sana_cli.request.runtime import RuntimeOptions
from sana_cli.server.uploads import Uploads

Status = Literal["queued", "running", "done", "failed", "cancelled"]
ENDS = ("done", "failed", "cancelled")  # names of last events, and the status that they bring
_REPLAYED = ("queued", "started", "notice", "picture", *ENDS)  # for who listens later


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A request, checked and resolved for one model."""

    options: GenerationOptions
    checkpoint: Checkpoint
    runtime: RuntimeOptions
    pictures: tuple[GenerationParams, ...]
    uploads: Uploads | None = None  # files that it came with; they go with the job


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A picture that is done. `content` is the file of a job that keeps none, else `path` names it."""

    index: int
    suffix: str = "png"  # of the format
    facts: Mapping[str, Any]  # as `GenerationResult.facts` lists them, and what drew it
    content: bytes | None = None
    path: Path | None = None

    def read(self) -> bytes:
        """The bytes of its file. OSError where somebody has removed it."""
        return self.content if self.content is not None else (self.path or Path()).read_bytes()


class Job:
    """A request and its pictures."""

    def __init__(
        self, work: Work, *, client: str, dialect: str = "native", keep: bool = True,
        preview_every: int | None = None, previews: bool = False,
    ) -> None:  # fmt: skip
        self.id = secrets.token_hex(8)
        self.work, self.client, self.dialect, self.keep = work, client, dialect, keep
        self.previews, self.preview_every = previews, preview_every
        self.status: Status = "queued"
        self.place = 0  # 1 is next; 0: no longer waiting
        self.created, self.started, self.finished = time.time(), 0.0, 0.0
        self.step, self.steps, self.current = 0, work.pictures[0].steps_to_run, 0
        self.preview: bytes | None = None  # PNG, of the picture that is drawn now
        self.last_preview: bytes | None = None
        self.pictures: list[Finished] = []
        self.notices: list[str] = []
        self.error: SanaError | None = None
        self.next_picture = 0  # the engine's, which draws them in order
        self.told: set[str] = set()  # the engine's: notices that are not repeated
        self._stopped = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._history: list[Event] = []
        self._listeners: list[_Listener] = []
        self._ended = asyncio.Event()

    # -- from any thread --

    def post(self, name: str, **data: Any) -> None:
        """Hand an event to the loop; nothing happens when the loop has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.take, Event(name, data))

    def cancel(self) -> None:
        """Stop after the step that runs now."""
        self._stopped.set()

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    # -- in the loop --

    @property
    def is_over(self) -> bool:
        return self.status in ENDS

    def take(self, event: Event) -> None:
        """Apply an event and pass it on."""
        if self.is_over:
            return
        self._apply(event.name, event.data)
        if event.name in _REPLAYED:
            self._history.append(event)
        for listener in self._listeners:
            listener.add(event)
        if self.is_over:
            self._ended.set()

    def _apply(self, name: str, data: Mapping[str, Any]) -> None:
        if name == "queued":
            self.place = data["place"]
        elif name == "started":
            self.status, self.place = "running", 0
            self.started = self.started or time.time()
        elif name == "step":
            self.current, self.step, self.steps = data["picture"], data["step"], data["steps"]
        elif name == "preview":
            self.preview = self.last_preview = data["png"]
        elif name == "notice":
            self.notices.append(data["message"])
        elif name == "picture":
            self.pictures.append(data["picture"])
        elif name in ENDS:
            self.status = name  # type: ignore[assignment]
            self.finished, self.place, self.preview = time.time(), 0, None
            self.error = data.get("error")
            if self.work.uploads is not None:
                self.work.uploads.remove()

    async def events(self) -> AsyncIterator[Event]:
        """Everything that has happened, then what happens, to the end."""
        listener = _Listener(self._history)
        self._listeners.append(listener)
        try:
            while True:
                event = await listener.next()
                yield event
                if event.name in ENDS:
                    return
        finally:
            self._listeners.remove(listener)

    async def wait(self) -> None:
        """Wait for the end."""
        await self._ended.wait()


class _Listener:
    """Events that one reader has not read. A slow one misses previews, nothing else."""

    def __init__(self, events: list[Event]) -> None:
        places = [e for e in events if e.name == "queued"]
        self._events = deque([*places[-1:], *(e for e in events if e.name != "queued")])
        self._there = asyncio.Event()

    def add(self, event: Event) -> None:
        if event.name == "preview":
            unread = [e for e in self._events if e.name == "preview"]
            for old in unread:
                self._events.remove(old)
        self._events.append(event)
        self._there.set()

    async def next(self) -> Event:
        while not self._events:
            self._there.clear()
            await self._there.wait()
        return self._events.popleft()


class Jobs:
    """The jobs of this server: those that wait or run, and the latest that are over."""

    def __init__(self, *, kept: int = 200) -> None:
        self._kept = kept
        self._jobs: dict[str, Job] = {}

    def add(self, job: Job) -> None:
        """Add a job; the oldest that is over goes when there are too many."""
        self._jobs[job.id] = job
        over = [each for each in self._jobs.values() if each.is_over]
        for old in over[: max(0, len(over) - self._kept)]:
            del self._jobs[old.id]

    def find(self, id_: str) -> Job | None:
        return self._jobs.get(id_)

    def newest(self) -> list[Job]:
        return list(reversed(self._jobs.values()))

    def open(self) -> list[Job]:
        """List the jobs that wait or run, in the order in which they came."""
        return [job for job in self._jobs.values() if not job.is_over]
