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
        self._homes: dict[
            int, Stream
        ] = {}  # storage -> the stream that takes it back when it is freed
        self._uses: dict[
            int, dict[int, int]
        ] = {}  # storage -> other streams that used it, their clocks

    @property
    def current(self) -> Stream:
        return getattr(self._here, "stream", self.default)

    def use(self, stream: Stream | None) -> Any:
        """As `torch.cuda.stream`, whose context is left by hand in torch's own graphs."""
        return _Use(self, stream)

    def order(
        self, name: str, read: list[int], written: list[int], *, is_recorded: bool = False
    ) -> None:
        """Note a race where memory is used that another stream wrote, and nothing waited. Recorded work does not run."""
        current = self.current
        current.clock += not is_recorded
        for storage in dict.fromkeys([*read, *written]):
            number, clock = self._writers.get(storage, (current.number, 0))
            if not current.knows(number, clock):
                self.races.append(f"{name} uses what another stream wrote, without waiting")
            if self._homes.get(storage, current) is not current and not is_recorded:
                self._uses.setdefault(storage, {})[current.number] = current.clock

    def wrote(self, storages: list[int]) -> None:
        stream = self.current
        stream.clock += 1
        for storage in storages:
            self._writers[storage] = (stream.number, stream.clock)

    def allocated(self, storage: int, *, is_graphs: bool) -> None:
        """Memory of the current stream; a graph's comes from a pool of its own."""
        if not is_graphs:
            self._homes.setdefault(storage, self.current)

    def freed(self, storage: int) -> None:
        """Note a race where the next tensor of a stream may be given memory that another stream still uses."""
        home, uses = self._homes.pop(storage, None), self._uses.pop(storage, {})
        self._writers.pop(storage, None)
        if home is not None and not all(home.knows(*use) for use in uses.items()):
            self.races.append("memory is freed while another stream may use it")

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
