"""The stages of a picture in their order: planned, denoised, decoded, described, and once more in fp32 where values break."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sana_cli import __version__
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.digest import model_digest
from sana_cli.checkpoints.lora_file import open_loras
from sana_cli.errors import Cancelled, SanaError
from sana_cli.pipeline.drawing import Drawing
from sana_cli.pipeline.pipeline import SanaPipeline
from sana_cli.pipeline.results import GenerationResult
from sana_cli.pipeline.watching import Watching
from sana_cli.request.params import GenerationParams
from sana_cli.request.upscale import seed_of_redrawing

Params = Callable[..., GenerationParams]


@pytest.fixture
def drawing(opened: Callable[..., SanaPipeline]) -> Drawing:
    return opened(prompt_cache=False).drawing


def draw(drawing: Drawing, params: GenerationParams) -> GenerationResult:
    drawing.prepare(params)
    return drawing.decode(drawing.denoise(params, None, None), params)


# -- before ----------------------------------------------------------------------------------------


def test_preparing_loads_nothing(drawing: Drawing, params: Params, told: Any) -> None:
    drawing.prepare(params())
    assert told.stages == []


def test_notices_are_given_once(drawing: Drawing, params: Params, told: Any) -> None:
    for prompt in ("a qwxyz", "a qwxyz", "a cat"):
        drawing.prepare(params(prompt))
    knows = [line for line in told.notices if "knows none of the things" in line]
    size = [line for line in told.notices if "was trained at" in line]
    assert (len(knows), len(size)) == (1, 1)


def test_a_lora_of_another_model_is_refused_first(
    drawing: Drawing, params: Params, told: Any, lora_files: Any, tmp_path: Path
) -> None:
    halves = lora_files.random_lora({"transformer_blocks.0.attn1.to_q.weight": (7, 5)})
    file = lora_files.write_lora(tmp_path / "a.safetensors", halves)
    p = params(loras=(str(file),))
    assert p.loras == open_loras(((file, 1.0),))
    with pytest.raises(SanaError):
        drawing.prepare(p)
    assert told.stages == []


# -- a picture -------------------------------------------------------------------------------------


def test_a_picture(drawing: Drawing, params: Params, told: Any) -> None:
    result = draw(drawing, params(width=96, height=64))
    assert (result.image.size, result.image.mode) == ((96, 64), "RGB")
    assert result.passes is not None
    assert (result.passes.computed, result.passes.without_savings) == (4, 4)
    assert set(result.seconds) >= {"load", "text", "denoise", "decode", "save"}
    assert [s for s in told.stages if not s.startswith("load")] == ["text", "denoise", "decode"]


def test_the_clock_begins_with_each_picture(drawing: Drawing, params: Params) -> None:
    first, second = (draw(drawing, params()).seconds for _ in range(2))
    assert first["load"] > 0
    assert second["load"] == 0, "everything stayed in memory"


# -- enlarged --------------------------------------------------------------------------------------


def test_two_drawings(drawing: Drawing, params: Params, told: Any) -> None:
    """The second redraws what became of the first, in the callbacks' one count of steps."""
    p = params(upscale=2, upscale_strength=0.5, steps=4)
    steps: list[tuple[int, int]] = []
    drawing.prepare(p)
    latents = drawing.denoise(p, lambda *step: steps.append(step), None)
    result = drawing.decode(latents, p)
    assert result.image.size == (128, 128)
    assert steps == [(step, 6) for step in range(1, 7)]
    assert result.passes is not None
    assert result.passes.without_savings == 2 * 6
    assert [stage for stage in told.stages if not stage.startswith("load")] == [
        "text", "denoise", "decode", "encode", "denoise", "decode",
    ]  # fmt: skip
    assert told.stages.count("load transformer") == 1, "it stays between the drawings"
    assert result.settings["upscaled_from"] == "64x64"


def test_a_second_drawing_is_picture_to_picture(
    drawing: Drawing, params: Params, tmp_path: Path
) -> None:
    """It is what `--image` makes of the saved first picture, with the seed that follows."""
    enlarged = draw(drawing, params(upscale=2, upscale_strength=0.5, steps=4))
    draw(drawing, params(steps=4)).image.save(tmp_path / "first.png")
    size = {"width": 128, "height": 128}
    by_hand = params(image=str(tmp_path / "first.png"), strength=0.5, steps=4, **size)
    by_hand = replace(by_hand, seed=seed_of_redrawing(by_hand.seed))
    assert draw(drawing, by_hand).image.tobytes() == enlarged.image.tobytes()


def test_a_given_picture_is_enlarged(drawing: Drawing, params: Params, tmp_path: Path) -> None:
    Image.new("RGB", (50, 70), "red").save(tmp_path / "a.png")
    p = params(image=str(tmp_path / "a.png"), width=None, height=None, upscale=2, steps=4)
    assert draw(drawing, p).image.size == (96, 128), "100x140 in multiples of 32"


@pytest.mark.parametrize("last", [2, 5])
def test_both_drawings_can_be_cancelled(drawing: Drawing, params: Params, last: int) -> None:
    p = params(upscale=2, upscale_strength=0.5, steps=4)
    drawing.prepare(p)
    with pytest.raises(Cancelled, match=f"cancelled after step {last} of 6"):
        drawing.denoise(p, lambda step, _: step < last, None)


def test_previews_of_both_drawings(drawing: Drawing, params: Params) -> None:
    p = params(upscale=2, upscale_strength=0.5, steps=4)
    seen: list[tuple[int, int]] = []
    drawing.prepare(p)
    drawing.denoise(p, None, Watching(show=lambda _, *step: seen.append(step), every=1))
    assert seen == [(step, 6) for step in range(1, 7)]


def test_decoding_alone_counts_no_passes(drawing: Drawing, params: Params) -> None:
    p = params()
    drawing.prepare(p)
    latents = torch.randn(1, 32, 2, 2, generator=torch.Generator().manual_seed(1))
    result = drawing.decode(latents, p)
    assert result.passes is None
    assert result.seed == p.seed


def test_what_a_picture_carries(drawing: Drawing, params: Params, builtin: Checkpoint) -> None:
    p = params(guidance_scale=1.0, negative_prompt="")
    drawing.prepare(p)
    settings = drawing.settings_of(p)
    assert None not in settings.values()
    assert {key: settings[key] for key in ("prompt", "seed", "steps", "model", "size")} == {
        "prompt": "a cat", "seed": 1, "steps": 2, "model": "builtin", "size": "64x64",
    }  # fmt: skip
    assert settings["model_digest"] == model_digest(builtin)
    assert (settings["precision"], settings["device"], settings["backend"]) == ("fp32", "cpu", "auto")  # fmt: skip
    assert settings["version"] == __version__
    assert "branches" not in settings
    assert "decode" not in settings


def test_plans_that_round_differently_are_carried(drawing: Drawing, params: Params) -> None:
    p = params(width=256, height=256)
    drawing.prepare(p)
    assert drawing.rounding == {}
    while not drawing.components.plan.branches_apart:
        assert drawing.components.planning.step_down("denoise")
    assert drawing.components.planning.step_down("decode")
    assert drawing.rounding == {"branches": "apart", "decode": "exact-tiles 128"}
    assert drawing.settings_of(p)["branches"] == "apart"


def test_what_a_mask_keeps_is_put_back(drawing: Drawing, params: Params, tmp_path: Path) -> None:
    original = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    original.save(tmp_path / "o.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    mask.save(tmp_path / "m.png")
    p = params(image=str(tmp_path / "o.png"), mask=str(tmp_path / "m.png"))
    result = draw(drawing, p)
    kept, redrawn = (0, 0, 32, 64), (48, 0, 64, 64)
    assert result.image.crop(kept).tobytes() == original.crop(kept).tobytes()
    assert result.image.crop(redrawn).tobytes() != original.crop(redrawn).tobytes()
    assert result.settings["image"].endswith("o.png")


# -- values that break -----------------------------------------------------------------------------


def breaking(module: Any, stop: Callable[[], bool]) -> Any:
    """Fill what a module gives with NaN until `stop` says so, as an overflow in 16 bits would."""

    def hook(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor | None:
        return None if stop() else torch.full_like(output, torch.nan)

    return module.register_forward_hook(hook)


def test_an_overflow_is_drawn_again_in_fp32(
    opened: Callable[..., SanaPipeline], params: Params, told: Any
) -> None:
    """All of it, as a picture that was drawn in fp32 from the beginning; the file says so."""
    drawing, p = opened(precision="bf16", prompt_cache=False).drawing, params()
    drawing.prepare(p)
    components = drawing.components
    handle = breaking(components.transformer().proj_out, lambda: str(components.dtypes) == "fp32")
    try:
        again = drawing.decode(drawing.denoise(p, None, None), p)
    finally:
        handle.remove()
    assert "NaN or infinite values after denoising step 1 in bf16; trying once more in fp32" in (
        told.notices
    )
    assert again.settings["precision"] == "fp32"
    plain = draw(opened(precision="fp32", prompt_cache=False).drawing, p)
    assert again.image.tobytes() == plain.image.tobytes()


def test_what_is_broken_in_fp32_is_no_picture(drawing: Drawing, params: Params) -> None:
    p = params()
    drawing.prepare(p)
    latents = torch.full((1, 32, 2, 2), torch.nan)
    with pytest.raises(
        SanaError, match="no picture: NaN or infinite values after decoding, in fp32"
    ):
        drawing.decode(latents, p)


# -- several, and none -----------------------------------------------------------------------------


def test_texts_ahead(drawing: Drawing, params: Params, told: Any) -> None:
    wanted = [params("a cat"), params("a dog")]
    drawing.prepare(wanted[0])
    drawing.encode(wanted)
    told.stages.clear()
    for p in wanted:
        assert drawing.text(p).positive.embeds.ndim == 3
        draw(drawing, p)
    assert "text" not in told.stages


def test_clearing_gives_back_everything(drawing: Drawing, params: Params, told: Any) -> None:
    before = draw(drawing, params())
    drawing.clear()
    told.stages.clear()
    assert draw(drawing, params()).image.tobytes() == before.image.tobytes()
    assert [s for s in told.stages if s.startswith("load")] == [
        "load text encoder", "load transformer", "load decoder",
    ]  # fmt: skip
