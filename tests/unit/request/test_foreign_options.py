"""Options from other programs' settings: what is used, what is left out, and how that is said."""

from typing import Any

import pytest

from sana_cli.images.foreign_settings import ForeignSettings
from sana_cli.request.foreign_options import command_words, options_of_foreign


def foreign(**changes: Any) -> ForeignSettings:
    usual: dict[str, Any] = {
        "program": "SD.Next", "prompt": "a fox", "negative_prompt": "fog", "size": "500x700", "seed": 7, "steps": 20,
        "guidance": 4.5, "model": "sdxl", "others": {"Sampler": "Euler a", "Clip skip": "2"},
    }  # fmt: skip
    return ForeignSettings(**{**usual, **changes})


def test_what_means_the_same_is_used_and_the_rest_is_named() -> None:
    found = options_of_foreign(foreign(), "a.png")
    o = found.options
    assert (o.prompt, o.negative_prompt, o.seed, o.steps, o.guidance_scale) == (
        "a fox",
        "fog",
        7,
        20,
        4.5,
    )
    assert (o.width, o.height, o.model) == (512, 704, None)
    assert found.notice == (
        "a.png was drawn by SD.Next, so this is another picture with its prompt, negative prompt, size 512x704 "
        "(there 500x700), seed 7, steps 20, guidance 4.5; left out: model, Sampler, Clip skip"
    )


@pytest.mark.parametrize(
    "model",
    ["Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers", "sana-1.6b [0a1b2c]", "sana-1.6b"],
)
def test_models_of_ours(model: str) -> None:
    found = options_of_foreign(foreign(model=model), "a.png")
    assert found.options.model == "sana-1.6b"
    assert dict(found.options.sources) == {"model": "a.png"}
    assert "left out: Sampler" in found.notice


def test_numbers_out_of_range_are_left_out() -> None:
    found = options_of_foreign(
        foreign(steps=5000, guidance=-1.0, size="5x99999", others={}), "a.png"
    )
    assert (found.options.steps, found.options.guidance_scale) == (None, None)
    assert (found.options.width, found.options.height) == (32, 16384)
    assert found.notice.endswith("left out: model, steps, guidance")


@pytest.mark.parametrize(
    ("upscale", "strength", "taken", "left"),
    [
        (2.0, 0.7, (2.0, 0.7), ""),
        (2.0, None, (2.0, None), ""),
        (2.0, 1.5, (2.0, None), "upscale strength"),
        (9.0, 0.7, (None, None), "upscale, upscale strength"),
    ],
)
def test_hires_fix(
    upscale: float, strength: float | None, taken: tuple[Any, ...], left: str
) -> None:
    found = options_of_foreign(
        foreign(upscale=upscale, upscale_strength=strength, others={}, model=""), "a.png"
    )
    assert (found.options.upscale, found.options.upscale_strength) == taken
    assert found.notice.partition("; left out: ")[2] == left
    words = " ".join(command_words(found))
    assert ("--upscale 2" in words) == (taken[0] is not None)
    assert ("upscale 2" in found.notice) == (taken[0] is not None)


def test_an_enlarged_picture_that_would_be_too_large_is_drawn_once() -> None:
    found = options_of_foreign(foreign(upscale=8.0, size="4096x64", others={}), "a.png")
    assert found.options.upscale is None
    assert "upscale" in found.notice


def test_loras_and_many_settings() -> None:
    found = options_of_foreign(
        foreign(prompt="a fox <lora:style:1>", others={str(i): "" for i in range(20)}), "a.png"
    )
    assert found.options.prompt == "a fox"
    assert "LoRA style" in found.notice
    assert found.notice.endswith(" and 14 more")


def test_commands() -> None:
    words = command_words(options_of_foreign(foreign(), "a.png"))
    assert words[:3] == ["sana", "generate", "a fox"]
    assert words[3:] == [
        "--negative",
        "fog",
        "--size",
        "512x704",
        "--steps",
        "20",
        "--guidance",
        "4.5",
        "--seed",
        "7",
    ]
    found = options_of_foreign(
        ForeignSettings(program="", prompt="-5 degrees", negative_prompt="", size="64x64"), "a"
    )
    assert command_words(found) == ["sana", "generate", "--size", "64x64", "--", "-5 degrees"]


def test_text_that_no_prompt_holds() -> None:
    found = options_of_foreign(foreign(prompt="a\0fox \udcff"), "a.png")
    assert found.options.prompt == "a fox ?"
