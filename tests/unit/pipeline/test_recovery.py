"""A stage that fails is tried under smaller plans, or in fp32, and ends in one error."""

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch

from sana_cli.errors import ExitCode, SanaError
from sana_cli.memory.planner import Cap
from sana_cli.pipeline.pipeline import SanaPipeline
from sana_cli.pipeline.recovery import held_to, in_fp32_if_broken, retrying, within_cap
from sana_cli.pipeline.values import BrokenValues
from sana_cli.request.params import GenerationParams
from tests.faults import raising
from tests.rehearsal.device import Device

Params = Callable[..., GenerationParams]
NO_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    OSError("Cannot allocate memory"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("stage", ["text", "denoise", "decode"])
def test_out_of_memory_takes_smaller_plans(
    opened: Callable[..., SanaPipeline], params: Params, told: object, error: Exception, stage: str
) -> None:
    components = opened().components
    components.plan_for(params(width=512, height=512))
    before = str(components.planning)
    assert retrying(components, stage, raising(error, 2, then="done")) == "done"  # type: ignore[arg-type]
    assert str(components.planning) != before
    tried = [line for line in told.notices if line.startswith(f"out of memory: {stage}")]  # type: ignore[attr-defined]
    assert len(tried) == 2


def test_the_last_plan_gives_the_error_back(
    opened: Callable[..., SanaPipeline], params: Params
) -> None:
    components = opened().components
    components.plan_for(params())
    with pytest.raises(MemoryError):
        retrying(components, "denoise", raising(MemoryError(), 99, then="done"))
    assert components.plan.streams_blocks, "after everything was tried"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError("No such file"), ValueError("x")])
def test_other_errors_are_not_tried_again(
    opened: Callable[..., SanaPipeline], params: Params, error: Exception
) -> None:
    components = opened().components
    components.plan_for(params())
    plan = components.plan
    with pytest.raises(type(error)):
        retrying(components, "denoise", raising(error, 1, then="done"))
    assert components.plan == plan


def test_broken_values_are_computed_again_in_fp32(
    opened: Callable[..., SanaPipeline], params: Params, told: object
) -> None:
    components = opened(precision="fp16").components
    components.plan_for(params())
    assert (
        in_fp32_if_broken(components, raising(BrokenValues("NaN after x"), 1, then="done"))
        == "done"
    )
    assert str(components.dtypes) == "fp32"
    assert any("trying once more in fp32" in line for line in told.notices)  # type: ignore[attr-defined]
    with pytest.raises(SanaError, match="no picture: NaN after x, in fp32") as caught:
        in_fp32_if_broken(components, raising(BrokenValues("NaN after x"), 1, then="done"))
    assert caught.value.code == ExitCode.CHECKPOINT


def test_no_memory_left_is_one_error(
    opened: Callable[..., SanaPipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    components = opened().components
    with (
        pytest.raises(SanaError, match="out of memory at 64x96") as caught,
        within_cap(components, 64, 96),
    ):
        raise MemoryError
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert "--max-memory" not in caught.value.hint
    with pytest.raises(RuntimeError, match="a bug"), within_cap(components, 64, 96):
        raise RuntimeError("a bug")


@pytest.mark.parametrize("gpu", [{"total": 8 * 2**30}], indirect=True)
def test_a_cap_on_cuda_ends_with_the_block(gpu: Device) -> None:
    cap = Cap(bytes=2 * 2**30, asked=True)
    with suppress(ValueError), held_to(cap, torch.device("cuda")) as held:
        assert held == cap
        assert gpu.memory.fraction == 0.25
        raise ValueError
    assert gpu.memory.fraction == 1, "the process is as it was"
    with held_to(Cap(bytes=2 * 2**30), torch.device("cuda")) as held:
        assert held is None
        assert gpu.memory.fraction == 1, "what happens to be free is no cap"
