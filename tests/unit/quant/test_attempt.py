"""What a compiler, a driver or a device raises is a reason, not a traceback; but for what every other call meets too."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from quant.backends import dispatch, measurement
from quant.backends.attempt import Failure, attempt
from quant.backends.dispatch import kernel_for
from quant.backends.kernel import Kernel
from quant.backends.measurement import measure
from quant.config import QuantConfig
from quant.layers import QuantLinear

CPU = torch.device("cpu")


class PTXASError(Exception):
    """As Triton's: of no built-in kind."""


OF_COMPILERS = [
    RuntimeError("Failed to find C compiler."),
    AssertionError("libcuda.so cannot found!"),
    subprocess.CalledProcessError(1, ["gcc", "main.c"]),
    PTXASError("PTXAS error: internal error"),
    OSError("No space left on device"),
    ImportError("DLL load failed"),
]


def raising(error: BaseException) -> Callable[..., torch.Tensor]:
    def run(*arguments: object) -> torch.Tensor:
        raise error

    return run


def layer() -> QuantLinear:
    return QuantLinear.from_weight(torch.eye(64), None, QuantConfig(act_bits=8))


def kernel(run: Callable[..., torch.Tensor]) -> Kernel:
    return Kernel(
        name="ours", backend="native", schemes=("w8a8",), layer=QuantLinear, devices=("cpu",),
        run=run,
    )  # fmt: skip


@pytest.mark.parametrize("error", OF_COMPILERS, ids=lambda e: type(e).__name__)
def test_a_compilers_error_is_a_reason(error: Exception) -> None:
    found = attempt(raising(error))
    assert isinstance(found, Failure)
    assert found.reason == str(error)
    [measured] = measure(layer(), CPU, [kernel(raising(error))], with_reference=False)
    assert (measured.seconds, measured.note) == (None, str(error))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), torch.AcceleratorError("illegal address")],
    ids=lambda e: type(e).__name__,
)
def test_memory_and_a_broken_device_are_the_callers_business(error: Exception) -> None:
    with pytest.raises(type(error)):
        measure(layer(), CPU, [kernel(raising(error))], with_reference=False)


def on_cuda(monkeypatch: pytest.MonkeyPatch, run: Callable[..., torch.Tensor]) -> None:
    """Layers "on CUDA" lie on the CPU, and the only kernel is the given one."""
    monkeypatch.setattr(dispatch, "usable_kernels", lambda *a, **k: [kernel(run)])
    monkeypatch.setattr(measurement._Trial, "is_on_cuda", property(lambda self: True))


def test_a_cold_compiler_is_not_a_slow_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of shape is compiled by its first run, which takes seconds; the ones after it count."""
    shapes: set[torch.Size] = set()
    clock = [0.0]

    def run(x: torch.Tensor, packed: object, layer: QuantLinear) -> torch.Tensor:
        clock[0] += 0.001 if x.shape in shapes else 2.0
        shapes.add(x.shape)
        return layer.reference(x)

    on_cuda(monkeypatch, run)
    monkeypatch.setattr(measurement, "clock_of", lambda device: lambda: clock[0])
    monkeypatch.setattr(measurement, "best_seconds", lambda runs, device: [0.001, 1.0])
    chosen = kernel_for(layer(), CPU)
    assert chosen is not None
    assert chosen.name == "ours"


def test_a_missing_compiler_is_asked_for_again_by_the_next_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "kernels.json"
    on_cuda(monkeypatch, raising(RuntimeError("Failed to find C compiler.")))
    assert kernel_for(layer(), CPU, verdicts=path) is None
    assert not path.exists()
    on_cuda(monkeypatch, raising(NotImplementedError("only 3x3")))
    monkeypatch.setattr("quant.backends.verdicts._of_this_process", {})
    assert kernel_for(layer(), CPU, verdicts=path) is None
    assert path.exists(), "a kernel that refuses will refuse tomorrow, too"
