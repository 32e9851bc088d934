"""Give every quantized layer its kernel: the fastest of those that agree with the reference (`measurement.py`).

A machine decides once; `verdicts.py` remembers. On a CPU where it cannot, the first that is right is used.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from quant.backends.kernel import Kernel, Packed, kind_of
from quant.backends.measurement import Measurement, Probe, measure, probe_like
from quant.backends.verdicts import Passing, remembered
from quant.in_threads import in_threads
from quant.layers import AcceleratedLayer

Backend = Literal["auto", "native", "torchao", "quanto", "reference"]
BACKENDS: tuple[Backend, ...] = ("auto", "native", "torchao", "quanto", "reference")

_HANDICAP = 1.2  # of the reference: it expands whole weights, and those of real layers are new memory every time

_PACKING_HANDICAP = 1.1  # of kernels whose packing takes longer than a call: seconds of loading
_FEW_CALLS = 4  # of a layer, for which packing it in the order of the fastest kernel takes longer than it saves
_PACKING_THREADS = 4  # at most: each holds a layer twice


def all_kernels(device: torch.device | None = None) -> tuple[Kernel, ...]:
    """Every kernel that this version knows; for a device that is no GPU, without importing those of GPUs."""
    from quant.backends import cpu, libraries

    if device is not None and device.type != "cuda":
        return (*cpu.KERNELS, *libraries.KERNELS)
    from quant.backends import cuda

    return (*cpu.KERNELS, *cuda.KERNELS, *libraries.KERNELS)


def accelerate_(
    model: nn.Module,
    device: torch.device,
    *,
    backend: Backend = "auto",
    allow_int8_activations: bool = False,
    calls: int | None = None,
    verdicts: Path | None = None,
    after_packing: Callable[[], None] = lambda: None,
    before_measuring: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Attach the chosen kernel to every quantized layer; returns "backend name" by kind of layer.

    Layers must hold their integers on `device`. Kinds of layers for which `backend` has no kernel get the
    one that "auto" would choose. With `allow_int8_activations` the model bears kernels that round inputs to
    8 bits, for schemes that have a tolerance for it.
    `calls` is how often each layer will run, None: many times. For a few calls on a CPU, layers get the kernel that
    takes the least time with its packing, of those that return the same bits.
    `after_packing` is called whenever a layer has dropped its stored integers, `before_measuring` before each kind of
    layer that no verdict is known for.
    """
    chosen: dict[str, str] = {}
    kernels: dict[str, Kernel | None] = {}
    # All are chosen before one is packed, which would disturb what is measured.
    for layer in _layers(model):
        kind = kind_of(layer)
        if kind not in kernels:
            kernel = kernels[kind] = kernel_for(
                layer, device, backend=backend, calls=calls, verdicts=verdicts,
                allow_int8_activations=allow_int8_activations, before_measuring=before_measuring,
            )  # fmt: skip
            chosen[kind] = f"{kernel.backend} {kernel.name}" if kernel else "reference"
    pairs = ((layer, kernels[kind_of(layer)]) for layer in _layers(model))
    own = all(kernel is None or kernel.backend == "native" for kernel in kernels.values())
    # What libraries keep on the way may be for one thread.
    in_threads = own and device.type == "cpu"
    threads = min(torch.get_num_threads(), _PACKING_THREADS) if in_threads else 1
    pack_all(
        ((layer, kernel) for layer, kernel in pairs if kernel is not None), threads, after_packing
    )
    return chosen


def pack_all(
    pairs: Iterable[tuple[AcceleratedLayer, Kernel]],
    threads: int,
    after_packing: Callable[[], None],
) -> None:
    """Pack layers, one a thread at a time, and attach their kernels in this thread.

    oneDNN puts a weight into the order of instructions with tiles on one core, three seconds for a full-size model.
    """

    def pack(pair: tuple[AcceleratedLayer, Kernel]) -> Packed:
        layer, kernel = pair
        return kernel.pack(layer)

    for (layer, kernel), packed in in_threads(pack, pairs, threads):
        layer.attach(kernel.run, packed, free=kernel.frees_weight)
        del packed
        if kernel.frees_weight:
            after_packing()


def measure_ahead(
    model: nn.Module,
    device: torch.device,
    *,
    backend: Backend = "auto",
    allow_int8_activations: bool = False,
    verdicts: Path | None = None,
    before_measuring: Callable[[], None] = lambda: None,
) -> None:
    """Measure what `accelerate_` would, for few calls and for many, and remember it.

    Layers may be on the meta device, where they take no memory.
    """
    for layer in {kind_of(layer): layer for layer in _accelerated(model)}.values():
        for calls in (None, 1):
            kernel_for(
                layer, device, backend=backend, calls=calls, verdicts=verdicts,
                allow_int8_activations=allow_int8_activations, before_measuring=before_measuring,
            )  # fmt: skip


def _layers(model: nn.Module) -> Iterator[AcceleratedLayer]:
    """Yield the layers that have weights: an autoencoder may be loaded by halves."""
    return (layer for layer in _accelerated(model) if not layer.scale.is_meta)


def _accelerated(model: nn.Module) -> Iterator[AcceleratedLayer]:
    return (module for module in model.modules() if isinstance(module, AcceleratedLayer))


def kernel_for(
    layer: AcceleratedLayer,
    device: torch.device,
    *,
    backend: Backend = "auto",
    allow_int8_activations: bool = False,
    calls: int | None = None,
    verdicts: Path | None = None,
    before_measuring: Callable[[], None] = lambda: None,
    kernels: Sequence[Kernel] | None = None,
    probe: Probe | None = None,
) -> Kernel | None:
    """Choose the kernel for layers of this kind; None means the reference.

    `kernels` are those to choose among (None: all), `probe` the sizes that they are tried on (None: the usual ones).
    """
    if backend == "reference":
        return None
    candidates = usable_kernels(layer, device, backend, kernels=kernels)
    if not candidates:
        backend, candidates = "auto", usable_kernels(layer, device, kernels=kernels)
    if not candidates:
        return None
    names = [kernel.name for kernel in candidates]
    allow_int8_activations = (
        allow_int8_activations and layer.config.scheme.int8_inputs_tolerance is not None
    )

    few = calls is not None and calls <= _FEW_CALLS and _may_pack(candidates, device)

    def measured() -> list[Measurement]:
        before_measuring()
        return measure(
            probe_like(layer, device, probe),
            device,
            candidates,
            probe=probe,
            with_reference=backend == "auto",
            allow_int8_activations=allow_int8_activations,
        )

    name = remembered(
        f"{kind_of(layer)}{' loose' * allow_int8_activations}{' few' * few}; {','.join(names)}", device,
        lambda: _verdict(measured(), few=few),
        verdicts=verdicts, is_known=lambda name: name in ("reference", *names),
        unmeasured=(lambda: _first_right(measured())) if device.type == "cpu" else None,
    )  # fmt: skip
    return next((kernel for kernel in candidates if kernel.name == name), None)


def usable_kernels(
    layer: AcceleratedLayer,
    device: torch.device,
    backend: Backend = "auto",
    *,
    kernels: Sequence[Kernel] | None = None,
) -> list[Kernel]:
    """List those of `kernels` (None: of all) that may run a layer on this device, of one backend or of all.

    On a CPU "auto" omits libraries if a kernel of ours exists: they multiply by the same
    instructions, and importing them takes seconds.
    """
    known = all_kernels(device) if kernels is None else kernels
    usable = [kernel for kernel in known if kernel.supports(layer, device)]
    if backend != "auto":
        return [kernel for kernel in usable if kernel.backend == backend]
    ours = [kernel for kernel in usable if kernel.backend == "native"]
    return ours if ours and device.type == "cpu" else usable


def _may_pack(kernels: Sequence[Kernel], device: torch.device) -> bool:
    """Return whether some of several kernels of a CPU need another order of the weight."""
    several = device.type == "cpu" and len(kernels) > 1
    return several and any(kernel.frees_weight for kernel in kernels)


def _fastest(measured: Iterable[Measurement], *, few: bool) -> str:
    """The fastest for many calls; for `few`, the one of those as exact that ends first, its packing included."""
    usable = [m for m in measured if m.seconds is not None]
    if not usable:
        return "reference"
    fastest = min(usable, key=_cost)
    if not few:
        return fastest.kernel
    # The same error means the same bits: a seed stays one picture, however many are drawn.
    alike = [m for m in usable if m.error == fastest.error]
    return min(alike, key=lambda m: _FEW_CALLS * _cost(m) + m.packing_seconds).kernel


def _cost(measured: Measurement) -> float:
    seconds = measured.seconds or 0.0
    if measured.kernel == "reference":
        return seconds * _HANDICAP
    return seconds * (_PACKING_HANDICAP if measured.packing_seconds > seconds else 1)


def _first_right(measured: Iterable[Measurement]) -> str:
    """The first of the list that agrees with the reference and is not far too slow, whichever is the fastest."""
    return next((m.kernel for m in measured if m.seconds is not None), "reference")


def _verdict(measured: Sequence[Measurement], *, few: bool) -> str:
    """The fastest; for this process alone where a kernel could not be tried."""
    name = _fastest(measured, few=few)
    return Passing(name) if any(m.may_run_later for m in measured) else name
