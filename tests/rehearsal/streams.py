"""Streams with clocks: what one wrote is there for another only after a wait."""

import threading
import weakref
from typing import Any

_all: "weakref.WeakSet[Stream]" = weakref.WeakSet()


class Stream:
    """A queue of work. `clock` counts what was written on it, `seen` how far others are known to be done."""

    _count = 0

    def __init__(self, device: Any = None, **options: Any) -> None:
        Stream._count += 1
        self.number, self.clock, self.device = Stream._count, 0, device
        self.seen: dict[int, int] = {}
        _all.add(self)

    def knows(self, number: int, clock: int) -> bool:
        return number == self.number or self.seen.get(number, 0) >= clock

    def learn(self, seen: dict[int, int]) -> None:
        for number, clock in seen.items():
            self.seen[number] = max(self.seen.get(number, 0), clock)

    def wait_stream(self, other: "Stream") -> None:
        self.learn(other.seen | {other.number: other.clock})

    def wait_event(self, event: "Event") -> None:
        self.learn(event.seen)

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        for stream in _all:
            stream.learn(self.seen | {self.number: self.clock})


class Event:
    """A point in a stream's work."""

    def __init__(self, **options: Any) -> None:
        self.seen: dict[int, int] = {}

    def record(self, stream: Stream | None = None) -> None:
        from tests.rehearsal.device import device

        stream = stream or device().streams.current
        self.seen = stream.seen | {stream.number: stream.clock}

    def synchronize(self) -> None:
        for stream in _all:
            stream.learn(self.seen)

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: "Event") -> float:
        return 1.0


class Streams:
    """The current stream of each thread, and who wrote which memory."""

    def __init__(self) -> None:
        self.default = Stream()
        self.races: list[str] = []
        self._here = threading.local()
        self._writers: dict[int, tuple[int, int]] = {}  # storage -> stream, its clock

    @property
    def current(self) -> Stream:
        return getattr(self._here, "stream", self.default)

    def use(self, stream: Stream | None) -> Any:
        """As `torch.cuda.stream`, whose context is left by hand in torch's own graphs."""
        return _Use(self, stream)

    def order(self, name: str, read: list[int], written: list[int]) -> None:
        """Note a race where memory is used that another stream wrote, and nothing waited."""
        for storage in dict.fromkeys([*read, *written]):
            number, clock = self._writers.get(storage, (self.current.number, 0))
            if not self.current.knows(number, clock):
                self.races.append(f"{name} uses what another stream wrote, without waiting")

    def wrote(self, storages: list[int]) -> None:
        stream = self.current
        stream.clock += 1
        for storage in storages:
            self._writers[storage] = (stream.number, stream.clock)

    def host_waits(self) -> None:
        self.current.synchronize()

    def all_wait(self) -> None:
        for stream in list(_all):
            stream.synchronize()


class _Use:
    def __init__(self, streams: Streams, stream: Stream | None) -> None:
        self._streams, self._stream = streams, stream

    def __enter__(self) -> None:
        self._before = self._streams.current
        self._streams._here.stream = self._stream or self._before

    def __exit__(self, *error: object) -> None:
        self._streams._here.stream = self._before
