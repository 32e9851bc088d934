"""The denoising of a picture: callbacks that cancel, previews, steps that are tried again, starts within."""

# C latent channels, h w latent grid

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.errors import Cancelled, ExitCode
from sana_cli.pipeline.components import Components
from sana_cli.pipeline.guidance import PassCount
from sana_cli.pipeline.inputs import Inputs
from sana_cli.pipeline.latent_preview import OWN_FILE
from sana_cli.pipeline.pipeline import SanaPipeline
from sana_cli.pipeline.transformer_steps import NO_PREVIEW_YET, denoise_picture
from sana_cli.pipeline.values import BrokenValues
from sana_cli.pipeline.watching import Watching
from sana_cli.request.params import GenerationParams
from sana_cli.request.runtime import RuntimeOptions

Params = Callable[..., GenerationParams]
Draw = Callable[..., tuple[Tensor, PassCount]]


@pytest.fixture
def draw(opened: Callable[..., SanaPipeline]) -> Draw:
    """Denoise with one pipeline; `draw.components` are its parts."""
    components = opened().components
    inputs = Inputs(components)

    def run(params: GenerationParams, **callbacks: Any) -> tuple[Tensor, PassCount]:
        components.plan_for(params)
        return denoise_picture(components, inputs, params, **callbacks)

    run.components = components  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_latents(draw: Draw, params: Params, size: tuple[int, int]) -> None:
    width, height = size
    latents, passes = draw(params(width=width, height=height))
    assert (latents.shape, latents.dtype) == ((1, 32, height // 32, width // 32), torch.float32)
    assert (passes.computed, passes.saved) == (4, 0), "two steps of two branches"
    again, _ = draw(params(width=width, height=height))
    assert torch.equal(latents, again)
    other, _ = draw(params(width=width, height=height, seed=2))
    assert not torch.equal(latents, other)


def test_steps_are_counted_from_one(draw: Draw, params: Params) -> None:
    seen: list[tuple[int, int]] = []
    draw(params(steps=3), on_step=lambda step, of: seen.append((step, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_an_original_counts_the_steps_that_run(draw: Draw, params: Params, tmp_path: Path) -> None:
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(tmp_path / "a.png")
    seen: list[tuple[int, int]] = []
    p = params(steps=4, image=str(tmp_path / "a.png"), strength=0.5)
    _, passes = draw(p, on_step=lambda step, of: seen.append((step, of)))
    assert seen == [(1, 2), (2, 2)]
    assert (passes.without_savings, passes.computed) == (4, 4)


@pytest.mark.parametrize("answer", [None, True, 0, ""])
def test_only_false_cancels(draw: Draw, params: Params, answer: object) -> None:
    assert draw(params(), on_step=lambda step, of: answer)[1].computed == 4


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_callback_cancels(draw: Draw, params: Params, at: int) -> None:
    """After the step that it was called for; the next picture is drawn as ever."""
    with pytest.raises(Cancelled, match=f"cancelled after step {at} of 3") as caught:
        draw(params(steps=3), on_step=lambda step, of: step < at)
    assert caught.value.code == ExitCode.INTERRUPTED
    before, _ = draw(params())
    assert torch.equal(before, draw(params())[0])


def test_an_error_of_a_callback_is_its_owner_s(draw: Draw, params: Params, told: Any) -> None:
    """Even one that looks like running out of memory is not tried again."""
    with pytest.raises(MemoryError):
        draw(params(), on_step=lambda step, of: (_ for _ in ()).throw(MemoryError()))
    assert told.notices == []


# -- previews --------------------------------------------------------------------------------------


def test_previews(draw: Draw, params: Params) -> None:
    shown: list[tuple[tuple[int, int], int, int]] = []

    def show(image: Image.Image, step: int, steps: int) -> None:
        shown.append((image.size, step, steps))

    plain, _ = draw(params(steps=5))
    watched, _ = draw(params(steps=5), watching=Watching(show=show, every=2))
    assert shown == [((64, 64), step, 5) for step in (2, 4, 5)]
    assert torch.equal(plain, watched), "looking changes nothing"


def test_a_viewer_cancels(draw: Draw, params: Params) -> None:
    watching = Watching(show=lambda image, step, steps: step < 2, every=1)
    with pytest.raises(Cancelled, match="cancelled after step 2 of 4"):
        draw(params(steps=4), watching=watching)


def test_before_previews_are_ready(
    builtin: Checkpoint, params: Params, told: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of a model that brings neither a map nor a tiny decoder, until its first picture is decoded."""
    monkeypatch.setenv("SANA_CACHE", str(tmp_path / "cache"))
    folder = shutil.copytree(
        builtin.folder, tmp_path / "model", ignore=lambda *_: [OWN_FILE, "decoders", "__pycache__"]
    )
    model = open_checkpoint(str(folder))
    runtime = RuntimeOptions(precision="fp32")
    components = Components(model, runtime, device=torch.device("cpu"), reporter=told)
    components.plan_for(params())
    shown: list[int] = []
    watching = Watching(show=lambda image, step, steps: shown.append(step), every=1)
    for _ in range(2):
        denoise_picture(components, Inputs(components), params(), watching=watching)
    assert shown == []
    assert told.notices == [NO_PREVIEW_YET]


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])  # fmt: skip
def test_out_of_memory_resumes_at_the_same_step(
    draw: Draw, params: Params, told: Any, before_computing: Callable[..., Any], kind: Exception
) -> None:
    """Under smaller plans; steps that are done are not done again, and the picture is the same up to rounding."""
    plain, _ = draw(params(steps=3))
    seen: list[int] = []
    armed: list[Exception] = []

    def fail() -> None:
        if armed:
            raise armed.pop()

    def after(step: int, steps: int) -> None:
        seen.append(step)
        if step == 2:
            armed.extend([kind, kind])

    with before_computing("denoise", fail):
        resumed, passes = draw(params(steps=3), on_step=after)
    assert seen == [1, 2, 3]
    assert [line.partition(";")[0] for line in told.notices] == ["out of memory: denoise"] * 2
    assert passes.computed == 6
    torch.testing.assert_close(resumed, plain, atol=1e-4, rtol=1e-4)


def test_memory_that_never_suffices(
    draw: Draw, params: Params, told: Any, before_computing: Callable[..., Any]
) -> None:
    def fail() -> None:
        raise MemoryError

    with before_computing("denoise", fail), pytest.raises(MemoryError):
        draw(params())
    components: Any = draw.components  # type: ignore[attr-defined]
    assert components.plan.streams_blocks, "after everything was tried"


def test_broken_weights_name_the_step(draw: Draw, params: Params) -> None:
    components: Any = draw.components  # type: ignore[attr-defined]
    components.plan_for(params())
    with torch.no_grad():
        components.transformer().proj_out.bias.fill_(torch.nan)
    with pytest.raises(BrokenValues, match="NaN or infinite values after denoising step 1"):
        draw(params())


def test_cached_blocks_are_counted(draw: Draw, params: Params) -> None:
    _, passes = draw(params(steps=6, cache=1.0))
    assert passes.without_savings == 12
    assert 0 < passes.first_block_only == passes.saved < 12
