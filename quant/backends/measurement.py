"""Try kernels on a layer of a usual size: each is compared with the reference, and those that are right are timed.

A kind of layer takes about half a second: a kernel that is slow is called only once.
"""

# M rows (tokens), K input channels, N output channels

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from quant.backends.attempt import Failure, attempt
from quant.backends.kernel import Kernel, kind_of
from quant.backends.timing import best_seconds, clock_of
from quant.config import QuantConfig
from quant.layers import AcceleratedLayer, QuantConv2d, QuantLinear
from quant.schemes import examples_for

_HOPELESS = 20  # times as slow as the best so far: not called again
_NO_MATTER_S = 0.01  # a difference that may be chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Sizes of the layers and inputs that kernels are tried on, and the time that one may take."""

    rows: int = 512  # M of linear layers: a guided picture of 512 pixels
    in_features: int = 1152
    out_features: int = 4608  # kernels that want another order each time lose most in wide layers
    side: int = 32  # pixels of the picture that convolutions are tried on
    too_slow_s: float = 0.5  # a run on a few rows; some kernels have a path that takes minutes


def usual_probe(device: torch.device) -> Probe:
    """Return the sizes at which kernels of a device differ.

    On CUDA small products end before the next launch is made, which would then be timed.
    """
    return Probe(rows=2048, side=256) if device.type == "cuda" else Probe()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The result of a kernel on the probe."""

    kernel: str
    backend: str
    # By `clock_of`; None: it failed, was too slow or too far from the reference.
    seconds: float | None
    error: float | None  # relative to the reference's norm
    note: str = ""
    packing_seconds: float = 0.0  # of the layer that it was tried on, by the same clock
    may_run_later: bool = False  # its compiler or its device failed, not the kernel


def measure(
    layer: AcceleratedLayer,
    device: torch.device,
    kernels: Iterable[Kernel],
    *,
    with_reference: bool = True,
    allow_int8_activations: bool = False,
    probe: Probe | None = None,
) -> list[Measurement]:
    """Time kernels on one layer that holds its integers, and compare them with its reference.

    `probe` has the sizes of the input; None: `usual_probe`.
    """
    probe = probe or usual_probe(device)
    with torch.inference_mode():
        trial = _Trial(layer, device, probe, allow_int8_activations=allow_int8_activations)
        tried = [trial.of(kernel) for kernel in kernels]
        if with_reference:
            itself = Measurement(kernel="reference", backend="reference", seconds=None, error=0.0)
            tried.append((itself, trial.reference))
        seconds = iter(best_seconds([run for _, run in tried if run is not None], device))
    return [found if run is None else replace(found, seconds=next(seconds)) for found, run in tried]


class _Trial:
    """First runs of kernels on one input: which are right, and quick enough to be timed."""

    def __init__(
        self,
        layer: AcceleratedLayer,
        device: torch.device,
        probe: Probe,
        *,
        allow_int8_activations: bool,
    ) -> None:
        self.layer = layer
        self.x = x = _probe_input(layer, device, probe)
        self._too_slow_s = probe.too_slow_s
        self.few = x[..., :8, :] if isinstance(layer, QuantLinear) else x[..., :8, :8]
        self.expected = layer.reference(x)
        scheme = layer.config.scheme
        allowed = scheme.int8_inputs_tolerance if allow_int8_activations else None
        self.tolerance = scheme.tolerance if allowed is None else allowed
        self._now = clock_of(x.device)
        self._least: dict[bool, float] = {}  # seconds; by whether the input was whole

    @property
    def is_on_cuda(self) -> bool:
        """True on a CUDA device, where a kernel's first run compiles it."""
        return self.x.device.type == "cuda"

    def reference(self) -> Tensor:
        return self.layer.reference(self.x)

    def of(self, kernel: Kernel) -> tuple[Measurement, Callable[[], object] | None]:
        """Run a kernel for the first times; return the result, and the function to time, if any."""
        facts: dict[str, Any] = {"kernel": kernel.name, "backend": kernel.backend, "seconds": None}
        found = attempt(lambda: self._first_runs(kernel))
        if isinstance(found, Failure):
            later = self.is_on_cuda and not found.is_refusal
            return Measurement(**facts, error=None, note=found.reason, may_run_later=later), None
        error, run, facts["packing_seconds"] = found
        if error is not None and not error <= self.tolerance:
            return Measurement(**facts, error=error, note="too far from the reference"), None
        if run is None:
            return Measurement(**facts, error=error, note="too slow"), None
        return Measurement(**facts, error=error, note=kernel.note), run

    def _first_runs(
        self, kernel: Kernel
    ) -> tuple[float | None, Callable[[], object] | None, float]:
        """Return its error, None where it was too slow to be compared; its run, None where it is too slow to be timed;
        the seconds of its packing.
        """
        kernel.pack(self.layer)  # what it prepares once a process is no part of a layer's time
        started = self._now()
        packed = kernel.pack(self.layer)
        packing = self._now() - started

        def run(x: Tensor) -> Tensor:
            return kernel.run(x, packed, self.layer)

        # A compiler runs first, for each kind of shape: a second or two, once a machine.
        if self.is_on_cuda:
            run(self.few)
            run(self.x)
        started = self._now()
        run(self.few)
        if self._now() - started > self._too_slow_s:
            return None, None, packing
        started = self._now()
        run(self.few)
        if self._is_hopeless(self._now() - started, whole=False):
            return None, None, packing
        started = self._now()
        out = run(self.x)
        seconds = self._now() - started
        error = float((out.float() - self.expected.float()).norm() / self.expected.float().norm())
        is_hopeless = self._is_hopeless(seconds, whole=True)
        return error, None if is_hopeless else lambda: run(self.x), packing

    def _is_hopeless(self, seconds: float, *, whole: bool) -> bool:
        least = self._least[whole] = min(self._least.get(whole, seconds), seconds)
        return seconds > _HOPELESS * least + _NO_MATTER_S


def probe_layers(
    device: torch.device, probe: Probe | None = None
) -> Iterator[tuple[str, AcceleratedLayer]]:
    """A layer of a usual size for every scheme that layers have, with its kind, for `measure`."""
    for scheme in examples_for("linear"):
        config = QuantConfig.parse(scheme)
        assert config is not None
        layer = QuantLinear.from_weight(torch.eye(64), None, config)
        yield kind_of(layer), probe_like(layer, device, probe)
    for scheme in examples_for("conv"):
        config = QuantConfig.parse(scheme)
        assert config is not None
        conv = QuantConv2d.from_conv(nn.Conv2d(8, 8, 3, padding=1), config)
        yield kind_of(conv), probe_like(conv, device, probe)


def probe_like(
    layer: AcceleratedLayer, device: torch.device, probe: Probe | None = None
) -> AcceleratedLayer:
    """A layer of the same kind with random weights, of a usual size."""
    probe = probe or usual_probe(device)
    config = layer.config.plain
    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, QuantLinear):
        weight = torch.randn(probe.out_features, probe.in_features, generator=generator)
        return QuantLinear.from_weight(weight, None, config).to(device)
    assert isinstance(layer, QuantConv2d)
    height, width = layer.qweight.shape[2:]
    conv = nn.Conv2d(128, 128, (height, width), stride=layer.stride, padding=layer.padding)
    nn.init.normal_(conv.weight, generator=generator)
    return QuantConv2d.from_conv(conv, config).to(device)


def _probe_input(layer: AcceleratedLayer, device: torch.device, probe: Probe) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if isinstance(layer, QuantLinear):
        return torch.randn(probe.rows, layer.in_features, generator=generator).to(device)
    channels = layer.qweight.shape[1]
    return torch.randn(1, channels, probe.side, probe.side, generator=generator).to(device)
