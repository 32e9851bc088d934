"""Memory on the simulated device: what runs out at any stage takes a smaller plan, or ends in one line; caps hold and end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.errors import ExitCode, SanaError
from sana_cli.pipeline import SanaPipeline
from sana_cli.progress import SilentReporter
from sana_cli.request.runtime import RuntimeOptions
from sana_cli.system.precision import pick_device
from tests.rehearsal.device import Device
from tests.rehearsal.test_commands import assert_quiet

PICTURE: dict[str, Any] = {"seed": 3, "steps": 2, "width": 96, "height": 64}


class Told(SilentReporter):
    """The stage that runs, and every notice."""

    def __init__(self) -> None:
        self.stage_now, self.notices = "", list[str]()

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        before, self.stage_now = self.stage_now, title
        try:
            yield lambda: None
        finally:
            self.stage_now = before

    def notice(self, message: str) -> None:
        self.notices.append(message)


def opened(told: Told, device: str = "cuda", **runtime: Any) -> SanaPipeline:
    """The built-in model in fp32, without a cache of prompts."""
    options = RuntimeOptions.of(precision="fp32", prompt_cache=False, **runtime)
    return SanaPipeline(
        open_checkpoint("builtin"), options, device=pick_device(device), reporter=told
    )


def drawn(pipe: SanaPipeline, **options: Any) -> np.ndarray:
    return np.asarray(pipe("a red fox", **PICTURE | options).image).astype(int)


_SMALL = 4096  # bytes: latents of these pictures, which no plan makes smaller
STAGES = ("load text encoder", "text", "load transformer", "denoise", "load decoder", "decode")


def runs_out(gpu: Device, told: Told, stages: Sequence[str], times: int) -> list[int]:
    """Let the next allocations of some stages find no memory; the sizes of those that did not."""
    refused: list[int] = []

    def refuses(size: int) -> bool:
        if told.stage_now not in stages or len(refused) == times or size < _SMALL:
            return False
        refused.append(size)
        return True

    gpu.memory.refuses = refuses
    return refused


@pytest.mark.parametrize(
    "stage",
    [pytest.param(stage, marks=() if stage == "denoise" else pytest.mark.slow) for stage in STAGES],
)
def test_a_stage_without_memory_takes_a_smaller_plan(gpu: Device, stage: str) -> None:
    told = Told()
    with opened(told, "cpu") as pipe:
        expected = drawn(pipe)
    with opened(told) as pipe:
        failed = runs_out(gpu, told, [stage], 1)
        assert np.abs(drawn(pipe) - expected).max() <= 1
    assert len(failed) == 1
    assert [line for line in told.notices if line.startswith("out of memory: ")]
    assert_quiet(gpu)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*STAGES, "load encoder", "encode"])
def test_a_stage_that_never_finds_memory_ends_in_one_line(
    gpu: Device, stage: str, tmp_path: Any
) -> None:
    """And the pipeline draws on when there is some."""
    told = Told()
    options = {}
    if "encode" in stage and "text" not in stage:
        original = tmp_path / "a.png"
        Image.linear_gradient("L").convert("RGB").resize((96, 64)).save(original)
        options = {"image": original, "strength": 0.8}
    with opened(told) as pipe:
        stages = [stage, "text"] if stage == "load text encoder" else [stage]  # if it is streamed
        failed = runs_out(gpu, told, stages, 10**6)
        with pytest.raises(SanaError) as caught:
            drawn(pipe, **options)
        assert failed
        assert caught.value.message.startswith("out of memory at 96x64")
        assert caught.value.code == ExitCode.ENVIRONMENT
        assert caught.value.hint
        assert_quiet(gpu)
        gpu.memory.refuses = lambda size: False
        drawn(pipe, **options)
    assert_quiet(gpu)


@pytest.mark.slow
def test_a_closed_pipeline_gives_all_memory_back(gpu: Device) -> None:
    with opened(Told()) as pipe:
        drawn(pipe)
        assert gpu.memory.used > 2**20
    assert gpu.memory.used == 0


@pytest.mark.slow
@pytest.mark.parametrize("cap", ["40MiB", "24MiB", "18MiB"])
def test_a_cap_holds(gpu: Device, cap: str) -> None:
    """The planner stays below it; nothing has to fail first, and the process is free afterwards."""
    told = Told()
    with opened(told, "cpu") as pipe:
        expected = drawn(pipe)
    with opened(told, max_memory=cap) as pipe:
        result = pipe("a red fox", **PICTURE)
        assert np.abs(np.asarray(result.image).astype(int) - expected).max() <= 1
    assert result.peak_memory_bytes <= int(cap[:2]) * 2**20
    assert not [line for line in told.notices if line.startswith("out of memory")]
    assert_quiet(gpu)


@pytest.mark.slow
def test_a_cap_below_every_plan_is_told_before_any_work(gpu: Device) -> None:
    with opened(Told(), max_memory="1MiB") as pipe, pytest.raises(SanaError) as caught:
        drawn(pipe)
    assert caught.value.message.startswith("no plan fits into 1 MiB")
    assert gpu.counts["operations"] == 0
    assert_quiet(gpu)


@pytest.mark.slow
@pytest.mark.parametrize("gpu", [{"total": 30 << 20}, {"total": 20 << 20}], indirect=True, ids=str)
def test_a_device_with_little_memory(gpu: Device) -> None:
    """No cap is asked for: what is free decides."""
    told = Told()
    with opened(told, "cpu") as pipe:
        expected = drawn(pipe)
    with opened(told) as pipe:
        assert np.abs(drawn(pipe) - expected).max() <= 1
    assert_quiet(gpu)
