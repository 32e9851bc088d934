"""What a compiler, a driver or a device raises is a reason, not a traceback; but for what every other call meets too."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from quant.backends.attempt import Failure, attempt
from quant.backends.dispatch import kernel_for
from quant.backends.kernel import Kernel
from quant.backends.measurement import Probe, measure
from quant.config import QuantConfig
from quant.layers import QuantLinear
from tests.faults import PTXASError, raising
from tests.rehearsal.device import CUDA

CPU = torch.device("cpu")


OF_COMPILERS = [
    RuntimeError("Failed to find C compiler."),
    AssertionError("libcuda.so cannot found!"),
    subprocess.CalledProcessError(1, ["gcc", "main.c"]),
    PTXASError("PTXAS error: internal error"),
    OSError("No space left on device"),
    ImportError("DLL load failed"),
]


def layer(device: torch.device = CPU) -> QuantLinear:
    return QuantLinear.from_weight(torch.eye(64), None, QuantConfig(act_bits=8)).to(device)


def kernel(run: Callable[..., torch.Tensor]) -> Kernel:
    return Kernel(
        name="ours", backend="native", schemes=("w8a8",), layer=QuantLinear, devices=("cpu", "cuda"),
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


SMALL = Probe(rows=32, in_features=64, out_features=64, too_slow_s=0.1)


def chosen_on_cuda(run: Callable[..., torch.Tensor], verdicts: Path | None = None) -> Kernel | None:
    return kernel_for(
        layer(CUDA), CUDA, backend="native", kernels=[kernel(run)], probe=SMALL, verdicts=verdicts
    )  # fmt: skip


@pytest.mark.usefixtures("gpu")
def test_a_cold_compiler_is_not_a_slow_kernel(passes: Callable[[float], None]) -> None:
    """Each kind of shape is compiled by its first run, which takes seconds; the ones after it count."""
    shapes: set[torch.Size] = set()

    def run(x: torch.Tensor, packed: object, layer: QuantLinear) -> torch.Tensor:
        passes(0.01 if x.shape in shapes else 3 * SMALL.too_slow_s)
        shapes.add(x.shape)
        return layer.reference(x)

    chosen = chosen_on_cuda(run)
    assert chosen is not None
    assert len(shapes) == 2


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (RuntimeError("Failed to find C compiler."), False),
        (NotImplementedError("only 3x3"), True),  # a kernel that refuses will refuse tomorrow, too
    ],
    ids=["missing compiler", "refusal"],
)
def test_a_missing_compiler_is_asked_for_again_by_the_next_process(
    tmp_path: Path, error: Exception, is_kept: bool
) -> None:
    """What stands in the file holds for the next process (`test_verdicts.py`)."""
    path = tmp_path / "kernels.json"
    assert chosen_on_cuda(raising(error), path) is None
    assert path.exists() == is_kept
