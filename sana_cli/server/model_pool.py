"""The models in memory, all under one cap: what a picture needs is predicted, and the least recently used one goes first.

Only the engine's thread loads and evicts; others read `status`.
"""

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.memory.planner import cap_of, choose_for
from sana_cli.pipeline.pipeline import SanaPipeline
from sana_cli.request.runtime import RuntimeOptions
from sana_cli.server.forecast import Capped
from sana_cli.server.jobs import Work
from sana_cli.system.precision import pick_device
from sana_cli.system.resident import resident_bytes

if TYPE_CHECKING:
    import torch

_MOST_PIPELINES = 32  # open at once; one without weights takes next to nothing


@dataclass(slots=True, kw_only=True)
class _Entry:
    """A pipeline, and when it drew last."""

    pipeline: SanaPipeline
    asked: RuntimeOptions  # of the requests that it draws
    used: float = field(default_factory=time.monotonic)
    pictures: int = 0

    @property
    def kept_bytes(self) -> int:
        return self.pipeline.kept_bytes


class ModelPool:
    """Pipelines by model and runtime options."""

    def __init__(self, *, max_memory: int | None, keep_alive: float | None) -> None:
        """`max_memory` in bytes, None: what is free; `keep_alive` in seconds, None: for ever."""
        self.max_memory, self.keep_alive = max_memory, keep_alive
        self.evictions = 0
        self._entries: dict[tuple[object, ...], _Entry] = {}
        self._devices: dict[str, torch.device] = {}

    def pipeline_for(self, work: Work) -> SanaPipeline:
        """The pipeline of a picture, with room for it. SanaError where the model cannot be drawn under the cap."""
        key = _key(work.checkpoint, work.runtime)
        entry = self._entries.pop(key, None)
        if entry is None or entry.pipeline.checkpoint != work.checkpoint:
            if entry is not None:
                entry.pipeline.close()
            entry = _Entry(pipeline=self._opened(work), asked=work.runtime)
        self._entries[key] = entry  # the last is the latest
        entry.used, entry.pictures = time.monotonic(), entry.pictures + 1
        self._make_room(entry, work)
        return entry.pipeline

    def _opened(self, work: Work) -> SanaPipeline:
        for old in list(self._entries)[: max(0, len(self._entries) - _MOST_PIPELINES + 1)]:
            self._entries.pop(old).pipeline.close()
        capped = Capped.of(work.runtime, self.max_memory)
        pipeline = SanaPipeline(
            work.checkpoint,
            capped.runtime,
            device=self._device(work.runtime.device),
            expects="more",
            cap_source=capped.source,
        )
        pipeline.components.planning.reserved = capped.reserved
        return pipeline

    def _device(self, name: str) -> "torch.device":
        if name not in self._devices:
            self._devices[name] = pick_device(name)
        return self._devices[name]

    def _make_room(self, entry: _Entry, work: Work) -> None:
        """Evict others until the fastest plan of this picture fits next to the rest."""
        others = self._other_models_in_memory(entry)
        if not others:
            return
        pipeline = entry.pipeline
        device, runtime = pipeline.components.device, pipeline.components.runtime
        cap = cap_of(device, runtime.max_memory).bytes
        if cap is None:
            return
        plan = choose_for(
            work.checkpoint, replace(runtime, max_memory=None), work.pictures[0],
            pipeline.components.dtypes, device, several=True, text_is_cached=False, warm=True,
            reserved=pipeline.components.planning.reserved,
        )  # fmt: skip
        room = cap - plan.peak.total
        for other in others:  # the least recently used first
            if sum(each.kept_bytes for each in others) <= room:
                return
            self._evict(other)

    def _other_models_in_memory(self, entry: _Entry) -> list[_Entry]:
        """The other models in memory. Frees the parts of those whose plan keeps none: no prediction counts them."""
        loaded = [
            each
            for each in self._entries.values()
            if each is not entry and each.pipeline.components.is_loaded
        ]
        for each in loaded:
            if not each.kept_bytes:
                each.pipeline.unload()
        return [each for each in loaded if each.kept_bytes]

    def _evict(self, entry: _Entry) -> None:
        entry.pipeline.unload()
        self.evictions += 1

    def is_warm(self, work: Work) -> bool:
        """Check whether its model is in memory."""
        entry = self._entries.get(_key(work.checkpoint, work.runtime))
        return entry is not None and entry.kept_bytes > 0

    def evict_idle(self) -> None:
        """Evict what was not used for `keep_alive` seconds."""
        for entry in self._entries.values():
            if entry.kept_bytes and self._seconds_left(entry) == 0:
                self._evict(entry)

    def next_expiry(self) -> float | None:
        """Seconds until something is to be evicted; None: nothing is."""
        if self.keep_alive is None:
            return None
        left = [
            self._seconds_left(entry) or 0.0 for entry in self._entries.values() if entry.kept_bytes
        ]
        return min(left, default=None)

    def _seconds_left(self, entry: _Entry) -> float | None:
        if self.keep_alive is None:
            return None
        return max(0.0, entry.used + self.keep_alive - time.monotonic())

    def status(self) -> dict[str, Any]:
        """Describe what is in memory, for people and programs."""
        loaded = [entry for entry in list(self._entries.values()) if entry.kept_bytes]
        return {
            "max_memory_bytes": self.max_memory,
            "resident_bytes": resident_bytes(),
            "evictions": self.evictions,
            "loaded": [_facts(entry, self._seconds_left(entry)) for entry in reversed(loaded)],
        }

    def close(self) -> None:
        """Give everything back."""
        for entry in self._entries.values():
            entry.pipeline.close()
        self._entries.clear()


def _key(checkpoint: Checkpoint, runtime: RuntimeOptions) -> tuple[object, ...]:
    return checkpoint.name, checkpoint.folder, runtime


def _facts(entry: _Entry, left: float | None) -> dict[str, Any]:
    pipeline = entry.pipeline
    return {
        "model": pipeline.checkpoint.name,
        "device": str(pipeline.components.device),
        "precision": str(pipeline.components.dtypes),
        "bytes": entry.kept_bytes,
        "plan": str(pipeline.components.planning),
        "options": entry.asked.changed(),
        "pictures": entry.pictures,
        "expires_in_s": None if left is None else round(left, 1),
    }
