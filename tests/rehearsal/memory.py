"""The memory of the simulated device: what is allocated, how much there is, and who still uses what is freed."""

import threading
import weakref
from collections.abc import Callable

import torch

_BLOCK = 512  # bytes that the allocator rounds to; blocks begin at multiples of it


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same memory as a tensor of the host."""
    with torch._C.DisableTorchFunction():
        return tensor.as_subclass(torch.Tensor)


def storage_of(tensor: torch.Tensor) -> int:
    """The identity of a tensor's storage, which its views share."""
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage()._cdata


def offset_bytes(tensor: torch.Tensor) -> int:
    """Where a tensor begins in its block: blocks of a device begin at 512 bytes, those of the host anywhere."""
    with torch._C.DisableTorchFunction():
        return int(tensor.storage_offset()) * tensor.element_size()


def poison(tensor: torch.Tensor) -> None:
    """Fill a whole storage with what no one computes: NaN in every float type, -1 in integers."""
    with torch._C.DisableTorchFunction(), torch.inference_mode():
        torch.empty(0, dtype=torch.uint8).set_(plain(tensor).untyped_storage()).fill_(0xFF)


class Memory:
    """What is allocated, and how much there is. `freed(storage)` is called when the last tensor of one is gone."""

    def __init__(self, total: int, freed: Callable[[int], None]) -> None:
        self.total, self.fraction, self.freed = total, 1.0, freed
        self.live = self.peak = self.pools = 0
        # Planted by tests: asked for each allocation, whatever there is.
        self.refuses: Callable[[int], bool] = lambda size: False
        self._held: dict[int, list[int]] = {}  # storage -> tensors, bytes
        self._lock = threading.RLock()

    @property
    def used(self) -> int:
        """Bytes of tensors and of graphs."""
        return self.live + self.pools

    def holds(self, storage: int) -> bool:
        """Return whether a tensor of the device still has this storage."""
        return storage in self._held

    def hold(self, tensor: torch.Tensor) -> None:
        """Count a tensor; OutOfMemoryError where its storage does not fit."""
        key = storage_of(tensor)
        with self._lock:
            if key not in self._held:
                with torch._C.DisableTorchFunction():
                    size = -(-tensor.untyped_storage().nbytes() // _BLOCK) * _BLOCK
                if self.refuses(size) or self.used + size > self.fraction * self.total:
                    raise torch.OutOfMemoryError(
                        f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB (rehearsed)."
                    )
                self._held[key] = [0, size]
                self.live += size
                self.peak = max(self.peak, self.used)
            self._held[key][0] += 1
        weakref.finalize(tensor, self._drop, key)

    def _drop(self, key: int) -> None:
        with self._lock:
            held = self._held[key]
            held[0] -= 1
            if not held[0]:
                del self._held[key]
                self.live -= held[1]
                self.freed(key)
