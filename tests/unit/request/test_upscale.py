"""`--upscale`: two drawings and their sizes, a given picture that is only enlarged, and what cannot be."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import ExitCode, SanaError
from sana_cli.request.init_image import examine
from sana_cli.request.options import options_of_picture
from sana_cli.request.params import GenerationParams, resolve
from sana_cli.request.picture_settings import picture_settings
from sana_cli.request.upscale import notices, seed_of_redrawing

Resolve = Callable[..., GenerationParams]


@pytest.fixture
def of(builtin: Checkpoint) -> Resolve:
    """Resolve options for the built-in model, which draws 256 pixels."""

    def make(**options: Any) -> GenerationParams:
        usual = {"prompt": "a cat", "seed": 1, "steps": 20, "upscale": 2}
        return resolve(GenerationOptions.of(**{**usual, **options}), builtin)

    return make


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (333, 250), "red").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def sizes(params: GenerationParams) -> list[tuple[int, int, int, int]]:
    return [(p.width, p.height, p.drawn_width, p.drawn_height) for p in params.passes]


def test_two_drawings(of: Resolve) -> None:
    params = of(width=96, height=64)
    assert (params.width, params.height) == (192, 128), "of the finished picture"
    first, second = params.passes
    assert sizes(params) == [(96, 64, 96, 64), (192, 128, 192, 128)]
    assert first.init_image is None
    assert second.init_image is not None
    assert (second.init_image.strength, second.steps_to_run) == (0.35, 7)
    assert params.steps_to_run == 27, "of both"
    assert (first.seed, second.seed) == (1, seed_of_redrawing(1))
    assert first.upscale is second.upscale is None
    assert seed_of_redrawing(1) != seed_of_redrawing(2)


def test_a_picture_takes_the_place_of_the_first(of: Resolve, picture: Path) -> None:
    params = of(image=str(picture))
    assert sizes(params) == [(672, 512, 672, 512)], "666x500 in multiples of 32"
    assert params.init_image is not None
    assert (params.init_image.strength, params.steps_to_run) == (0.35, 7)
    wide = of(image=str(picture), width=400)
    assert sizes(wide) == [(800, 608, 800, 608)], "the size before, whose other side follows"


@pytest.mark.parametrize("options", [{"strength": 0.6}, {"mask": "mask.png"}])
def test_a_picture_that_is_redrawn_before(
    of: Resolve, picture: Path, options: dict[str, Any]
) -> None:
    """A strength or a mask is of the first drawing, at the model's size."""
    Image.new("L", (333, 250), "white").save(picture.parent / "mask.png")
    options = {k: str(picture.parent / v) if k == "mask" else v for k, v in options.items()}
    params = of(image=str(picture), **options)
    first, second = params.passes
    assert sizes(params)[0][:2] == (288, 224), "no more pixels than 256x256"
    assert sizes(params)[1][:2] == (576, 448)
    assert first.init_image is not None
    assert first.init_image.image.path == picture
    assert second.init_image is not None
    assert second.init_image.mask is None, "all of it is redrawn"
    assert params.init_image is None, "the finished picture is not pasted into"


def test_bins_hold_for_the_first(builtin: Checkpoint) -> None:
    model = replace(builtin, defaults=replace(builtin.defaults, native_size=512))
    options = GenerationOptions(prompt="a cat", upscale=2, width=500, height=300, bins=True)
    params = resolve(options, model)
    (width, height, *drawn), last = sizes(params)
    assert (width, height) == (500, 300)
    assert last == (1000, 600, *(2 * side for side in drawn))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"upscale": 0.5}, "--upscale 0.5 is out of range"),
        ({"upscale": 9}, "--upscale 9 is out of range"),
        ({"upscale": float("nan")}, "--upscale nan is out of range"),
        ({"upscale": 8, "width": 4096, "height": 4096}, "makes 32768x32768, which is too large"),
        ({"upscale": 1.01}, "--upscale 1.01 of 256x256 enlarges nothing"),
        ({"upscale_strength": 0}, "--upscale-strength 0 is out of range"),
        ({"upscale_strength": 1.5}, "--upscale-strength 1.5 is out of range"),
        ({"upscale_strength": 0.04}, "--upscale-strength 0.04 of 20 steps leaves none to run"),
        ({"steps": 2}, "--upscale-strength 0.35 of 2 steps leaves none to run"),
        ({"upscale": None, "upscale_strength": 0.5}, "--upscale-strength needs a factor"),
        ({"width": 50}, "is not a multiple of 32"),
    ],
)
def test_what_cannot_be(of: Resolve, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SanaError, match=message) as caught:
        of(**options)
    assert caught.value.code == ExitCode.USAGE
    assert caught.value.hint


def test_one_is_off(of: Resolve) -> None:
    params = of(upscale=1, upscale_strength=0.5)
    assert params.upscale is None
    assert params.passes == (params,)


def test_a_setting_of_the_strength_alone_is_no_mistake(builtin: Checkpoint) -> None:
    options = GenerationOptions(
        prompt="a cat", upscale_strength=0.5, sources={"upscale_strength": "config.toml"}
    )
    assert resolve(options, builtin).upscale is None


@pytest.mark.parametrize(
    "options",
    [
        {"width": 96, "height": 64},
        {"upscale": 1.5, "upscale_strength": 0.7},
        {"image": True},
        {"image": True, "width": 400},
        {"image": True, "strength": 0.5},
        {"upscale": 1},
    ],
)
def test_settings_of_a_picture_repeat_it(
    of: Resolve, builtin: Checkpoint, picture: Path, options: dict[str, Any]
) -> None:
    params = of(**options | ({"image": str(picture)} if "image" in options else {}))
    settings = {k: v for k, v in picture_settings(params, builtin).items() if v is not None}
    assert settings["size"] == f"{params.width}x{params.height}", "of the file"
    again = resolve(options_of_picture(settings, "a.png"), builtin)
    assert again == replace(params, upscale=again.upscale), "as it was"
    assert again.passes == params.passes


def test_sizes_that_were_resized_are_repeated() -> None:
    """Both finished sizes may meet by rounding, though the first drawing was resized."""
    settings = {
        "prompt": "x", "seed": 1, "size": "1536x1536", "drawn_size": "1536x1536", "upscale": 1.512,
        "upscaled_from": "1016x1016", "upscale_strength": 0.35,
    }  # fmt: skip
    assert options_of_picture(settings, "a.png").bins is True
    enlarged = {**settings, "image": "a.png", "image_digest": "0" * 64}
    assert options_of_picture(enlarged, "a.png").bins is False


def test_the_second_begins_with_the_first(of: Resolve) -> None:
    _, second = of().passes
    image = examine(Image.new("RGB", (256, 256)))
    begun = second.begun_with(image)
    assert begun.init_image is not None
    assert begun.init_image.image.pixels is not None
    assert (begun.init_image.strength, begun.steps_to_run) == (0.35, 7)


def test_a_rounded_size_is_told(of: Resolve, picture: Path) -> None:
    told = [
        notices(p.upscale, p.width, p.height)
        for p in (of(), of(upscale=1.3), of(image=str(picture)))
        if p.upscale is not None
    ]
    assert told == [[], ["--upscale 1.3 of 256x256 draws 320x320: sides are multiples of 32"], []]
