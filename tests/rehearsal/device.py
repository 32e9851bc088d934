"""A CUDA device that is not there: tensors that say `cuda:0` and compute on the CPU.

Every call of torch's Python interface is seen (`Calls`), so the rules of a device hold for it: tensors of host and device do
not mix, memory runs out, work of one stream is not there for another until that waits, and while a graph is captured (`graphs.py`)
nothing may wait for the device. Kernels of ours run their definitions (`kernels.py`). What a real device computes, how long it takes, and
how an allocator's blocks are reused is not shown.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

from tests.rehearsal import rules
from tests.rehearsal.memory import Memory, plain, poison, storage_of
from tests.rehearsal.streams import Streams

CUDA = torch.device("cuda", 0)
_SYNCS = {
    "item", "tolist", "numpy", "nonzero", "equal", "masked_select", "unique", "allclose", "__bool__", "__float__", "__int__",
    "__index__", "__repr__", "__format__", "__array__", "__contains__", "is_nonzero",
}  # fmt: skip
_IN_PLACE = {
    "__setitem__",
    *(f"__i{op}__" for op in ("add", "sub", "mul", "truediv", "and", "or", "xor")),
}
_ANYWHERE = {
    "copy_",
    "__getitem__",
    "__setitem__",
    "__set__",
    "set_",
}  # take tensors of the host, too
_RANDOM = ("rand", "normal", "uniform_", "bernoulli", "multinomial", "dropout")
_FLAGS = {"device": CUDA, "is_cuda": True, "is_cpu": False}


class OnDevice(torch.Tensor):
    """A tensor in the device's memory."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return device().run(func, args, kwargs or {})


class Calls(TorchFunctionMode):
    """Sends every call to the device, which decides whether it is its own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return device().run(func, args, kwargs or {})


class Device:
    """One simulated GPU; `counts` are of what costs time: syncs, copies, launches, captures, replays."""

    def __init__(self, *, total: int, capability: tuple[int, int], name: str) -> None:
        self.streams = Streams()
        self.memory = Memory(total, self.streams.freed)
        self.capability, self.name = capability, name
        self.counts: Counter[str] = Counter()
        self._here = threading.local()
        self.variants: set[Any] = set()  # kernels that are compiled
        # Planted by tests: called with its name before each operation.
        self.fails: Callable[[str], None] = lambda name: None

    @property
    def capturing(self) -> Any:
        """The graph that records this thread's work: engines capture with the error mode "thread_local"."""
        return getattr(self._here, "graph", None)

    @capturing.setter
    def capturing(self, graph: Any) -> None:
        self._here.graph = graph

    # -- calls -------------------------------------------------------------------------------------

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one call of torch's interface, on the device where it is about it."""
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._attribute(func, args[0])
        if name == "_has_compatible_shallow_copy_type":
            return False  # a module that moves makes new parameters
        if func is torch.Tensor.cuda:
            return self._to(args[0], (CUDA,), {})
        if func is torch.Tensor.cpu:
            return self._to(args[0], ("cpu",), {})
        if func is torch.Tensor.to:
            return self._to(args[0], args[1:], dict(kwargs))
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        ours = [t for t in tensors if isinstance(t, OnDevice)]
        made_here = "device" in kwargs and _is_cuda(kwargs["device"])
        if made_here:
            kwargs = kwargs | {"device": "cpu"}
            if kwargs.get("pin_memory"):
                kwargs = kwargs | {"pin_memory": False}
        if not ours and not made_here:
            with torch._C.DisableTorchFunction():
                return func(*args, **kwargs)
        self._check(name, tensors, ours)
        rules.refuse(name, args, self.capability)
        return self._operate(name, func, args, kwargs, ours, made_here=made_here)

    def _attribute(self, func: Any, tensor: torch.Tensor) -> Any:
        name = func.__self__.__name__
        if isinstance(tensor, OnDevice) and name in _FLAGS:
            return _FLAGS[name]
        with torch._C.DisableTorchFunction():
            value = func(tensor)
        if isinstance(tensor, OnDevice) and isinstance(value, torch.Tensor):
            return self.wrap(value)
        return value

    def _check(
        self, name: str, tensors: Sequence[torch.Tensor], ours: Sequence[torch.Tensor]
    ) -> None:
        with torch._C.DisableTorchFunction():
            hosts = [t for t in tensors if not isinstance(t, OnDevice) and t.ndim]
        if ours and hosts and name not in _ANYWHERE:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and cpu! ({name})"
            )
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        if name in _SYNCS:
            self.wait(f"{name} waits for the device")
        if hosts:
            self.copy_over(name, to_host=name == "copy_" and not isinstance(tensors[0], OnDevice))
        if self.capturing is not None and name.startswith(_RANDOM):
            self.capturing.invalidate(f"{name} draws random numbers")

    def _operate(
        self,
        name: str,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        ours: Sequence[torch.Tensor],
        *,
        made_here: bool = False,
    ) -> Any:
        self.fails(name)
        written = _written(name, args, kwargs)
        self._order(name, ours, written)
        if self.capturing is not None:
            self.capturing.before(written)
        with torch._C.DisableTorchFunction():
            out = func(*args, **kwargs)
        known = {storage_of(t) for t in ours}
        new: list[torch.Tensor] = []

        elsewhere = kwargs.get("device") is not None and not made_here

        def up(tensor: torch.Tensor) -> torch.Tensor:
            if isinstance(tensor, OnDevice) or name in _SYNCS or elsewhere:
                return tensor
            if storage_of(tensor) not in known:
                new.append(tensor)
            return self.wrap(tensor)

        if name == "copy_" and not isinstance(args[0], OnDevice):
            return out
        out = tree_map_only(torch.Tensor, up, out)
        if name in _EMPTY:  # holds what was there before, which may be anything
            for tensor in new:
                poison(tensor)
        if new or written:
            self.counts["operations"] += self.capturing is None
            self.streams.wrote([storage_of(t) for t in [*new, *written]])
        if self.capturing is not None and (new or written) and name not in _EMPTY:
            self.capturing.record(func, args, kwargs, new, written)
        elif self.capturing is not None and new:
            self.capturing.made(new)
        return out

    def _to(self, tensor: torch.Tensor, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
        target = kwargs.pop("device", None)
        rest: list[Any] = []
        for value in args:
            if isinstance(value, torch.Tensor):
                target, kwargs["dtype"] = value.device, value.dtype
            elif isinstance(value, str | torch.device):
                target = value
            elif isinstance(value, torch.dtype):  # not whether to wait, nor whether to copy
                rest.append(value)
        here = isinstance(tensor, OnDevice)
        there = here if target is None else _is_cuda(target)
        if here == there:
            if not here:
                rest = rest if target is None else [target, *rest]
                with torch._C.DisableTorchFunction():
                    return torch.Tensor.to(tensor, *rest, **kwargs)
            ours = [tensor]
            return self._operate("to", torch.Tensor.to, (tensor, *rest), kwargs, ours)
        if not (here and kwargs.get("non_blocking") and self.capturing is None):
            self.copy_over("to", to_host=here)
        if here:
            self.streams.order("to", [storage_of(tensor)], [])
        with torch._C.DisableTorchFunction():
            moved = plain(tensor).to(*rest, **kwargs | {"copy": True})
        if here:
            return moved
        moved = self.wrap(moved)
        self.streams.wrote([storage_of(moved)])
        return moved

    def wrap(self, tensor: torch.Tensor) -> torch.Tensor:
        """Give a tensor of the host to the device, as new memory or as a view of what it has."""
        with torch._C.DisableTorchFunction(), torch.inference_mode(tensor.is_inference()):
            ours = tensor.as_subclass(OnDevice)
        self.memory.hold(ours)
        self.streams.allocated(storage_of(ours), is_graphs=self.capturing is not None)
        return ours

    def launch(
        self, name: str, run: Callable[..., None], tensors: list[Any], writes: tuple[int, ...]
    ) -> None:
        """Run a kernel: `run` gets `tensors` as they lie in memory and writes those at positions `writes`."""
        present = [t for t in tensors if t is not None]
        if not all(isinstance(t, OnDevice) for t in present):
            raise ValueError(
                f"Pointer argument of {name} cannot be accessed from Triton (cpu tensor?)"
            )
        self.fails(name)
        compiled = rules.variant(name, tensors)
        if self.capturing is not None and compiled not in self.variants:
            self.capturing.invalidate(f"{name} is compiled and loaded")
        self.variants.add(compiled)
        written = [tensors[i] for i in writes if tensors[i] is not None]
        self._order(name, present, written)
        if self.capturing is not None:
            self.capturing.before(written)

        def go(*memory: Any) -> None:
            with torch._C.DisableTorchFunction(), torch.inference_mode():
                run(*memory)

        arguments = [None if t is None else plain(t) for t in tensors]
        go(*arguments)
        self.counts["launches"] += self.capturing is None
        self.streams.wrote([storage_of(t) for t in written])
        if self.capturing is not None:
            self.capturing.record(go, arguments, {}, [], written)

    def _order(
        self, name: str, used: Sequence[torch.Tensor], written: Sequence[torch.Tensor]
    ) -> None:
        self.streams.order(
            name, [*map(storage_of, used)], [*map(storage_of, written)],
            is_recorded=self.capturing is not None,
        )  # fmt: skip

    # -- host and device ---------------------------------------------------------------------------

    def wait(self, why: str) -> None:
        """Let the host wait for the current stream."""
        if self.capturing is not None:
            self.capturing.invalidate(why)
        self.counts["syncs"] += 1
        self.streams.host_waits()

    def copy_over(self, name: str, *, to_host: bool) -> None:
        if self.capturing is not None:
            self.capturing.invalidate(f"{name} copies between pageable memory and the device")
        self.counts["to host" if to_host else "from host"] += 1
        if to_host:
            self.wait(name)

    def synchronize(self, device: Any = None) -> None:
        if self.capturing is not None:
            self.capturing.invalidate("cudaDeviceSynchronize")
        self.counts["syncs"] += 1
        self.streams.all_wait()

    def empty_cache(self) -> None:
        if self.capturing is not None:
            self.capturing.invalidate("empty_cache")


_EMPTY = {"empty", "empty_like", "new_empty", "empty_strided"}
_device: Device | None = None


def device() -> Device:
    """The device that is installed."""
    assert _device is not None
    return _device


def use(found: Device) -> None:
    """Make this the device that calls are sent to."""
    global _device
    _device = found


def _is_cuda(target: Any) -> bool:
    return target is not None and str(target).startswith("cuda")


def _written(name: str, args: Any, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    in_place = name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))
    found = [args[0]] if in_place else []
    out = kwargs.get("out")
    found += [out] if isinstance(out, torch.Tensor) else list(out or ())
    return [t for t in found if isinstance(t, OnDevice)]
