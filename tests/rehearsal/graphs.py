"""Graphs that record and replay. Captured work has not run: what it made is poisoned, what it overwrote is restored."""

import weakref
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

from tests.rehearsal.device import device
from tests.rehearsal.memory import plain, poison, storage_of


class Graph:
    """As `torch.cuda.CUDAGraph`; `torch.cuda.graph` itself stays torch's own."""

    underway: "Graph | None" = None

    def __init__(self, keep_graph: bool = False) -> None:
        self._work: list[tuple[Any, Any, dict[str, Any], list[torch.Tensor]]] = []
        self._made: dict[int, torch.Tensor] = {}  # by storage: the graph's own memory
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._reason = ""
        self._ready = False

    def capture_begin(self, *pool: Any, capture_error_mode: str = "global", **options: Any) -> None:
        gpu = device()
        if Graph.underway:  # of the process: PyTorch allows one at a time
            gpu.counts["failed captures"] += 1
            raise RuntimeError("a capture is underway")
        if gpu.streams.current is gpu.streams.default:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        gpu.counts["captures"] += 1
        gpu.capturing = Graph.underway = self
        gpu.memory.peak, self._peak, self._base = gpu.memory.live, gpu.memory.peak, gpu.memory.live

    def invalidate(self, why: str) -> None:
        self._reason = self._reason or why
        raise torch.AcceleratorError(
            f"CUDA error: operation not permitted when stream is capturing ({why})"
        )

    def before(self, written: list[torch.Tensor]) -> None:
        for tensor in written:
            key, memory = storage_of(tensor), plain(tensor)
            if key not in self._made and key not in self._before:
                with torch._C.DisableTorchFunction():
                    whole = torch.empty(0, dtype=torch.uint8).set_(memory.untyped_storage())
                    self._before[key] = (whole, whole.clone())

    def made(self, tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            self._made[storage_of(tensor)] = plain(tensor)

    def record(
        self,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        new: list[torch.Tensor],
        written: list[torch.Tensor],
    ) -> None:
        """Keep one operation: in place, or with its results in the graph's memory."""

        def lower(value: Any) -> Any:
            return plain(value) if isinstance(value, torch.Tensor) else value

        with torch._C.DisableTorchFunction():
            args, kwargs = torch.utils._pytree.tree_map(lower, (tuple(args), kwargs))
        self.made(new)
        self._work.append((func, args, kwargs, [] if written else [plain(t) for t in new]))

    def capture_end(self) -> None:
        gpu = device()
        gpu.capturing = Graph.underway = None
        high, gpu.memory.peak = gpu.memory.peak, max(gpu.memory.peak, self._peak)
        with torch._C.DisableTorchFunction(), torch.inference_mode():
            for whole, was in self._before.values():
                whole.copy_(was)
            _poison(self._made)
        self._before.clear()
        if self._reason:
            gpu.counts["failed captures"] += 1
            raise torch.AcceleratorError(
                "CUDA error: operation failed due to a previous error during capture"
            )
        self._ready = True
        pool = high - self._base
        gpu.memory.pools += pool
        weakref.finalize(self, _end, gpu, pool, self._made)

    def replay(self) -> None:
        gpu = device()
        if not self._ready:
            raise RuntimeError("a graph that was not captured cannot be replayed")
        gpu.counts["replays"] += 1
        touched = set(self._made)
        read = self._read()
        if not all(map(gpu.memory.holds, read)):
            gpu.streams.races.append("a replay uses memory that was freed after the capture")
        with torch._C.DisableTorchFunction(), torch.inference_mode():
            for func, args, kwargs, results in self._work:
                out = func(*args, **kwargs)
                found = [t for t in tree_flatten(out)[0] if isinstance(t, torch.Tensor)]
                for result, value in zip(results, found, strict=False):
                    result.copy_(value)
        gpu.streams.order("a replay", read, [])
        gpu.streams.wrote(list(touched))

    def _read(self) -> list[int]:
        """Storages that the recorded work uses and did not make."""
        used = (
            storage_of(value)
            for _, args, kwargs, _ in self._work
            for value in tree_flatten((args, kwargs))[0]
            if isinstance(value, torch.Tensor)
        )
        return [key for key in dict.fromkeys(used) if key not in self._made]

    def reset(self) -> None:
        self._work.clear()
        self._ready = False

    def pool(self) -> tuple[int, int]:
        return (0, id(self))


def _poison(made: dict[int, torch.Tensor]) -> None:
    for tensor in made.values():
        poison(tensor)


def _end(gpu: Any, pool: int, made: dict[int, torch.Tensor]) -> None:
    """A graph's memory goes with it: whoever still reads it reads nonsense."""
    gpu.memory.pools -= pool
    _poison(made)
