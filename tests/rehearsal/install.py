"""Make torch believe in the simulated device."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch

from tests.rehearsal import graphs, kernels
from tests.rehearsal.device import Calls, Device, use
from tests.rehearsal.streams import Event, Stream

Patch = Callable[..., Any]


@contextlib.contextmanager
def _nothing(*arguments: Any) -> Iterator[None]:
    yield


def install(
    patch: Patch = setattr,
    *,
    total: int = 24 << 30,
    capability: tuple[int, int] = (8, 9),
    name: str = "a simulated GPU",
    interpreted: bool = False,
) -> Device:
    """Make torch believe in a device; `patch(object, name, value)` may undo it. The caller enters `Calls()`.

    Kernels run their definitions; with `interpreted`, their own code under Triton's interpreter, which takes minutes where
    definitions take seconds.
    """
    found = Device(total=total, capability=capability, name=name)
    use(found)
    for member, value in _members(found).items():
        patch(torch.cuda, member, value)
    patch(torch.version, "cuda", "13.0")
    absent = {} if patch is setattr else {"raising": False}
    patch(torch._C, "_host_emptyCache", lambda: None, **absent)
    run_thread = threading.Thread.run

    def run_with_device(thread: threading.Thread) -> None:
        with Calls():
            run_thread(thread)

    patch(threading.Thread, "run", run_with_device)
    kernels.install(found, patch, interpreted=interpreted)
    return found


def small_probes() -> None:
    """Measure kernels and ceilings, for as long as the process lives, by sizes that take a CPU milliseconds."""
    from quant.backends import measurement
    from sana_cli.bench import probes

    small = measurement.Probe(out_features=128, rows=64, side=8)
    effort = probes.Effort(shape=(64, 64, 64), copy_bytes=2**16, seconds=0.01)
    for module, name, sizes in (
        (measurement, "usual_probe", small), (probes, "usual_effort", effort),
    ):  # fmt: skip
        setattr(module, name, lambda device, sizes=sizes: sizes)


def _members(found: Device) -> dict[str, Any]:
    memory, streams, capability = found.memory, found.streams, found.capability
    facts = SimpleNamespace(
        name=found.name, major=capability[0], minor=capability[1], total_memory=memory.total,
        multi_processor_count=128, uuid="0-0", gcnArchName="",
    )  # fmt: skip

    def limit(fraction: float, device: Any = None) -> None:
        memory.fraction = fraction

    def reset(device: Any = None) -> None:
        memory.peak = memory.used

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: found.name,
        "get_device_capability": lambda device=None: capability,
        "get_device_properties": lambda device=None: facts,
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda device=None: (memory.total - memory.used, memory.total),
        "memory_allocated": lambda device=None: memory.used,
        "memory_reserved": lambda device=None: memory.used,
        "max_memory_allocated": lambda device=None: memory.peak,
        "max_memory_reserved": lambda device=None: memory.peak,
        "reset_peak_memory_stats": reset,
        "set_per_process_memory_fraction": limit,
        "get_per_process_memory_fraction": lambda device=None: memory.fraction,
        "synchronize": found.synchronize,
        "empty_cache": found.empty_cache,
        "Stream": Stream,
        "Event": Event,
        "stream": streams.use,
        "current_stream": lambda device=None: streams.current,
        "default_stream": lambda device=None: streams.default,
        "is_current_stream_capturing": lambda: found.capturing is not None,
        "device_of": _nothing,
        "device": _nothing,
        "CUDAGraph": graphs.Graph,
    }
