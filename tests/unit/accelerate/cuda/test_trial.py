"""Kernels that disagree with their definitions, or fail, are not used; the verdict is remembered."""

from dataclasses import replace
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest
import torch

from sana_cli.accelerate.cuda import trial
from sana_cli.accelerate.cuda.kernels import NAMES, REFERENCE, Kernels
from sana_cli.accelerate.cuda.trial import Widths, trusted_kernels
from tests.faults import PTXASError

CPU = torch.device("cpu")


def tried(
    candidates: Kernels, verdicts: Path | None = None, definitions: Kernels = REFERENCE
) -> tuple[Kernels, list[str]]:
    notices: list[str] = []
    kernels = trusted_kernels(
        Widths(64, 32, 32, 16), torch.float32, CPU, verdicts=verdicts, notice=notices.append,
        candidates=candidates, definitions=definitions,
    )  # fmt: skip
    return kernels, notices


def fails(**arguments: Any) -> None:
    raise RuntimeError("no such instruction\nand more")


def is_off(**arguments: Any) -> Any:
    return REFERENCE.rms_norm(**arguments) * 1.01


def is_broken(**arguments: Any) -> Any:
    return REFERENCE.rms_norm(**arguments) * float("nan")


@pytest.mark.parametrize(
    ("kernel", "said"),
    [(fails, "fails (no such instruction)"), (is_off, "is wrong by 0.01"), (is_broken, "by inf")],
    ids=["fails", "off", "broken"],
)
def test_what_is_wrong_is_replaced(kernel: Any, said: str, tmp_path: Path) -> None:
    def right(**arguments: Any) -> Any:
        return REFERENCE.quantize_per_token(**arguments)

    candidates = replace(REFERENCE, rms_norm=kernel, quantize_per_token=right)
    for _ in range(2):  # the second time from the file
        kernels, notices = tried(candidates, tmp_path / "verdicts.json")
        assert kernels.rms_norm is REFERENCE.rms_norm
        assert kernels.quantize_per_token is right
        assert len(notices) == 1
        assert said in notices[0]
        candidates = replace(candidates, rms_norm=REFERENCE.rms_norm)


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("libcuda.so cannot found!"),
        CalledProcessError(1, ["gcc", "main.c"]),
        PTXASError("internal error"),
        RuntimeError("Failed to find C compiler."),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_compiler_that_fails_is_asked_again_by_the_next_process(
    error: Exception, tmp_path: Path
) -> None:
    """What is in no file does not reach the next process (`quant/test_verdicts.py`)."""

    def breaks(**arguments: Any) -> None:
        raise error

    path = tmp_path / "verdicts.json"
    kernels, notices = tried(replace(REFERENCE, rms_norm=breaks), path)
    assert kernels.rms_norm is REFERENCE.rms_norm
    assert notices == [
        f"the kernel rms_norm fails ({error}) on this device; plain PyTorch runs instead"
    ]
    assert f"engine {trial._VERSION} rms_norm" not in path.read_text()


def test_out_of_memory_is_the_planners_business() -> None:
    def breaks(**arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        tried(replace(REFERENCE, rms_norm=breaks))


def test_every_kernel_is_tried() -> None:
    kernels, notices = tried(Kernels(**dict.fromkeys(NAMES, fails)))
    assert kernels == REFERENCE
    assert [notice.split()[2] for notice in notices] == list(NAMES)


def test_convolutions_are_compared_without_tf32() -> None:
    """cuDNN's tf32 is off by more than the tolerance of fp32: a right kernel would be refused for it."""
    allowed = []

    def watched(**arguments: Any) -> Any:
        allowed.append(torch.backends.cudnn.allow_tf32)
        return REFERENCE.depthwise3x3_glu(**arguments)

    definitions = replace(REFERENCE, depthwise3x3_glu=watched)
    tried(REFERENCE, definitions=definitions)
    assert allowed == [False]  # the definition
    tried(definitions)
    assert allowed == [False, True]  # a kernel as it will run
