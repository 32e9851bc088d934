"""Choose a kernel per scheme by measurement: each is compared with the reference, then the fastest is taken.

A verdict depends on the device, torch, the number of threads and the kernels; it is kept in a file, so that a machine
decides once and a seed stays one picture.
"""

# M rows (tokens), K input channels, N output channels

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from quant.backends.kernel import Kernel
from quant.backends.timing import best_seconds, clock_of
from quant.config import QuantConfig
from quant.layers import AcceleratedLayer, QuantConv2d, QuantLinear

Backend = Literal["auto", "native", "torchao", "quanto", "reference"]
BACKENDS: tuple[Backend, ...] = ("auto", "native", "torchao", "quanto", "reference")

_VERSION = 6  # of the verdicts; counts up when kernels or the way to time them change
_ROWS = 512  # a guided picture of 512 pixels
_WIDTH = 1152
_WIDE = 4 * _WIDTH  # output channels: kernels that want another order each time lose most there
_PROBE_SIDE = 32  # pixels of the picture that convolutions are tried on
_HANDICAP = 1.2  # of the reference: it expands whole weights, and those of real layers are new memory every time
_TOO_SLOW_S = 0.5  # a first run on a few rows; some kernels have a path that takes minutes
# Of the reference's norm. Weights of seven bits are off by 0.017 on such inputs; floats differ by rounding.
_TOLERANCE = {8: 0.02, 16: 0.01}
_LOOSE = 0.02  # five times less than the error of 4-bit weights themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """How one kernel did on the probe."""

    kernel: str
    backend: str
    # By `clock_of`; None: it failed, was too slow or too far from the reference.
    seconds: float | None
    error: float | None  # relative to the reference's norm
    note: str = ""


def all_kernels() -> tuple[Kernel, ...]:
    """Every kernel that this version knows."""
    from quant.backends import cpu, cuda, libraries

    return (*cpu.KERNELS, *cuda.KERNELS, *libraries.KERNELS)


def accelerate_(
    model: nn.Module,
    device: torch.device,
    *,
    backend: Backend = "auto",
    loose: bool = False,
    verdicts: Path | None = None,
    after_packing: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Attach the chosen kernel to every quantized layer; returns "backend name" by kind of layer.

    Layers must hold their integers on `device`. Kinds of layers for which `backend` has no kernel get the
    one that "auto" would choose. `loose`: the model bears 8-bit inputs where its weights have 4 bits.
    `after_packing` is called whenever a layer has dropped its stored integers.
    """
    chosen: dict[str, str] = {}
    kernels: dict[str, Kernel | None] = {}
    for layer in _layers(model):
        kind = _kind(layer)
        if kind not in kernels:
            kernels[kind] = choose(layer, device, backend=backend, loose=loose, verdicts=verdicts)
        kernel = kernels[kind]
        chosen[kind] = f"{kernel.backend} {kernel.name}" if kernel else "reference"
        if kernel is not None:
            layer.attach(kernel.run, kernel.pack(layer), free=kernel.frees_weight)
            if kernel.frees_weight:
                after_packing()
    return chosen


def choose_ahead(
    model: nn.Module,
    device: torch.device,
    *,
    backend: Backend = "auto",
    loose: bool = False,
    verdicts: Path | None = None,
) -> None:
    """Measure what `accelerate_` would, and remember it; layers may be on the meta device, where they take no memory."""
    layers = (m for m in model.modules() if isinstance(m, AcceleratedLayer))
    for layer in {_kind(layer): layer for layer in layers}.values():
        choose(layer, device, backend=backend, loose=loose, verdicts=verdicts)


def _layers(model: nn.Module) -> Iterator[AcceleratedLayer]:
    """Those that have weights: an autoencoder may be loaded by halves."""
    layers = (m for m in model.modules() if isinstance(m, AcceleratedLayer))
    return (layer for layer in layers if not layer.scale.is_meta)


def _kind(layer: AcceleratedLayer) -> str:
    """What decides about the kernel: the type of layer, its geometry and its bits."""
    config = layer.config
    name = "linear"
    if isinstance(layer, QuantConv2d):
        height, width = layer.qweight.shape[2:]
        name = f"conv {height}x{width}" + (f"/{layer.stride[0]}" if layer.stride[0] > 1 else "")
    group = f"-g{config.group_size}" if config.group_size else ""
    return f"{name} w{config.weight_bits}a{config.act_bits}{group}"


def choose(
    layer: AcceleratedLayer,
    device: torch.device,
    *,
    backend: Backend = "auto",
    loose: bool = False,
    verdicts: Path | None = None,
) -> Kernel | None:
    """The kernel for layers of this kind; None: the reference."""
    if backend == "reference":
        return None
    usable = [kernel for kernel in all_kernels() if kernel.supports(layer, device)]
    candidates = [kernel for kernel in usable if kernel.backend == backend]
    if not candidates:
        backend, candidates = "auto", usable
    if not candidates:
        return None
    loose = loose and layer.config.weight_bits == 4
    key = _verdict_key(_kind(layer) + " loose" * loose, device, candidates)
    name = _read_verdicts(verdicts).get(key)
    if name not in {"reference", *(kernel.name for kernel in candidates)}:
        measured = measure(
            _probe_like(layer, device),
            device,
            candidates,
            with_reference=backend == "auto",
            loose=loose,
        )
        name = _fastest(measured)
        _write_verdict(verdicts, key, name)
    return next((kernel for kernel in candidates if kernel.name == name), None)


def _fastest(measured: Iterable[Measurement]) -> str:
    usable = [m for m in measured if m.seconds is not None]
    if not usable:
        return "reference"
    return min(
        usable, key=lambda m: (m.seconds or 0.0) * (_HANDICAP if m.kernel == "reference" else 1)
    ).kernel


def measure(
    layer: AcceleratedLayer,
    device: torch.device,
    kernels: Iterable[Kernel],
    *,
    with_reference: bool = True,
    loose: bool = False,
    rows: int = _ROWS,
) -> list[Measurement]:
    """Time kernels on one layer that holds its integers, and compare them with its reference."""
    x = _probe_input(layer, rows).to(device)
    tolerance = _LOOSE if loose else _TOLERANCE[layer.config.act_bits]
    with torch.inference_mode():
        expected = layer.reference(x)
        tried = [_tried(kernel, layer, x, expected, tolerance) for kernel in kernels]
        if with_reference:
            itself = Measurement(kernel="reference", backend="reference", seconds=None, error=0.0)
            tried.append((itself, lambda: layer.reference(x)))
        seconds = iter(best_seconds([run for _, run in tried if run is not None], device))
    return [found if run is None else replace(found, seconds=next(seconds)) for found, run in tried]


def _tried(
    kernel: Kernel, layer: AcceleratedLayer, x: Tensor, expected: Tensor, tolerance: float
) -> tuple[Measurement, Callable[[], object] | None]:
    """What became of a first run, and where it was right and quick enough what is to be timed."""
    facts: dict[str, Any] = {"kernel": kernel.name, "backend": kernel.backend, "seconds": None}
    now = clock_of(x.device)
    try:
        packed = kernel.pack(layer)
        few = x[..., :8, :] if isinstance(layer, QuantLinear) else x[..., :8, :8]
        started = now()
        kernel.run(few, packed, layer)
        if now() - started > _TOO_SLOW_S:
            return Measurement(**facts, error=None, note="too slow"), None
        out = kernel.run(x, packed, layer)
        error = float((out.float() - expected.float()).norm() / expected.float().norm())
    except (RuntimeError, ValueError, NotImplementedError, ImportError) as error_:
        reason = (str(error_).splitlines() or [type(error_).__name__])[0]
        return Measurement(**facts, error=None, note=reason), None
    if not error <= tolerance:
        return Measurement(**facts, error=error, note="too far from the reference"), None
    found = Measurement(**facts, error=error, note=kernel.note)
    return found, lambda: kernel.run(x, packed, layer)


def probe_layers(device: torch.device) -> Iterator[tuple[str, AcceleratedLayer]]:
    """A layer of a usual size for every scheme that layers have, with its kind, for `measure`."""
    for scheme in ("w8a8", "w8a16", "w4a16-g64"):
        config = QuantConfig.parse(scheme)
        assert config is not None
        layer = QuantLinear.from_weight(torch.eye(64), None, config)
        yield _kind(layer), _probe_like(layer, device)
    for scheme in ("w8a8", "w8a16"):
        config = QuantConfig.parse(scheme)
        assert config is not None
        conv = QuantConv2d.from_conv(nn.Conv2d(8, 8, 3, padding=1), config)
        yield _kind(conv), _probe_like(conv, device)


def _probe_like(layer: AcceleratedLayer, device: torch.device) -> AcceleratedLayer:
    """A layer of the same kind with random weights, of a usual size."""
    config = layer.config
    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, QuantLinear):
        weight = torch.randn(_WIDE, _WIDTH, generator=generator)
        plain = QuantConfig(
            weight_bits=config.weight_bits, act_bits=config.act_bits, group_size=config.group_size
        )
        return QuantLinear.from_weight(weight, None, plain).to(device)
    assert isinstance(layer, QuantConv2d)
    height, width = layer.qweight.shape[2:]
    conv = nn.Conv2d(128, 128, (height, width), stride=layer.stride, padding=layer.padding)
    nn.init.normal_(conv.weight, generator=generator)
    plain = QuantConfig(weight_bits=config.weight_bits, act_bits=config.act_bits)
    return QuantConv2d.from_conv(conv, plain).to(device)


def _probe_input(layer: AcceleratedLayer, rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if isinstance(layer, QuantLinear):
        return torch.randn(rows, layer.in_features, generator=generator)
    channels = layer.qweight.shape[1]
    x = torch.randn(1, channels, _PROBE_SIDE, _PROBE_SIDE, generator=generator)
    return x.contiguous(memory_format=torch.channels_last)


# -- verdicts --------------------------------------------------------------------------------------


def remembered(
    kind: str, device: torch.device, decide: Callable[[], str], *, verdicts: Path | None
) -> str:
    """What was decided about this kind of layer on this machine before, or what `decide` says now."""
    key = _verdict_key(kind, device, ())
    verdict = _read_verdicts(verdicts).get(key)
    if verdict is None:
        verdict = decide()
        _write_verdict(verdicts, key, verdict)
    return verdict


def _verdict_key(kind: str, device: torch.device, candidates: Iterable[Kernel]) -> str:
    names = ",".join(kernel.name for kernel in candidates)
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    else:
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
        capability = f"{torch.backends.cpu.get_cpu_capability()} {limit}".strip()
        machine = f"{_cpu_name()} {capability} x{torch.get_num_threads()}"
    return f"{_VERSION}; {kind}; {machine}; torch {torch.__version__}; {names}"


def _cpu_name() -> str:
    """Model and instruction sets: the same model has fewer of them in some virtual machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {line.split(":")[0].strip(): line.split(":", 1)[-1].strip() for line in lines if line}
    flags = hashlib.sha256(facts.get("flags", "").encode()).hexdigest()[:8]
    return f"{facts.get('model name', platform.machine())} {flags}"


def _read_verdicts(path: Path | None) -> dict[str, str]:
    """What was decided before; a file that cannot be read decides nothing."""
    if path is None:
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {str(key): str(value) for key, value in values.items()}


def _write_verdict(path: Path | None, key: str, name: str) -> None:
    """Add one verdict; without a place to write, it is measured again next time."""
    if path is None:
        return
    text = json.dumps({**_read_verdicts(path), key: name}, indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    except OSError:
        return
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:  # a full disk, or a folder of that name
        Path(temporary).unlink(missing_ok=True)
