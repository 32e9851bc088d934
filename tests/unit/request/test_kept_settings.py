"""Every setting in a picture's file that is wrong is named, with its file: by its kind, its range, or by another one."""

import json
from typing import Any

import pytest

from sana_cli.config.generation import FIELDS
from sana_cli.errors import ExitCode, SanaError
from sana_cli.request.kept_settings import problem_of
from sana_cli.request.options import options_of_picture

DIGEST = "0123456789abcdef" * 4
PLAIN: dict[str, Any] = {
    "prompt": "a cat", "negative_prompt": "", "seed": 1, "steps": 2, "guidance": 4.0, "scheduler": "flow-dpm",
    "flow_shift": 3.0, "size": "64x64", "drawn_size": "64x64", "enhance": False, "model": "builtin", "revision": "",
    "model_digest": "b201f1a8e30a2937", "model_hash": "0a4eddee69", "precision": "fp32", "device": "cpu",
    "backend": "auto", "version": "0.2.0",
}  # fmt: skip
RICH: dict[str, Any] = {  # what only some pictures carry
    **PLAIN, "template": "a {cat|dog}", "quality": 90, "guidance_interval": "0.2-0.8", "pag": "2.0:8",
    "image": "in.png", "image_digest": DIGEST, "mask": "m.png", "mask_digest": DIGEST, "strength": 0.5,
    "upscale": 2.0, "upscale_strength": 0.35, "upscaled_from": "64x64", "size": "128x128", "drawn_size": "128x128",
    "control": "lines.png", "control_digest": DIGEST, "control_scale": 1.0, "control_type": "hed",
    "control_order": "trained", "control_hed_digest": DIGEST, "loras": ["a.safetensors:0.5"],
    "lora_digests": [DIGEST], "decoder": "lite", "decoder_digest": DIGEST, "decode": "exact-tiles 512",
    "branches": "apart", "cache": None,
}  # fmt: skip
NUMBERS = ("seed", "steps", "guidance", "flow_shift", "quality", "strength", "upscale", "upscale_strength",
           "control_scale", "cache")  # fmt: skip
OTHER_KINDS: tuple[Any, ...] = (
    {},
    {"a": 1},
    [[]],
    [1],
    float("nan"),
    10**400,
    -1,
    "\0",
    "\ud800",
    "x" * 30_000,
)
EMPTY_IS_NONE = ("revision", "version", "negative_prompt")


def refused(settings: dict[str, Any]) -> SanaError:
    """The error, after the settings were in a file."""
    with pytest.raises(SanaError) as caught:
        options_of_picture(json.loads(json.dumps(settings)), "a.png")
    error = caught.value
    assert error.code == ExitCode.USAGE
    assert error.hint
    assert len(error.message) < 250
    assert "\n" not in error.message
    assert "a.png" in error.message
    return error


def test_ours_are_sensible() -> None:
    assert problem_of(PLAIN) == problem_of(RICH) == ""
    assert problem_of({**PLAIN, "size": "1000x1000", "drawn_size": "1024x1024"}) == "", "bins"
    assert problem_of({**PLAIN, "style": 5}) == "", "of a later version"


def test_every_setting_of_a_picture_is_here() -> None:
    assert {f.option.picture for f in FIELDS.values() if f.option.picture} <= RICH.keys()


@pytest.mark.parametrize("key", RICH)
def test_another_kind(key: str) -> None:
    for value in (*OTHER_KINDS, True if key != "enhance" else 1):
        if (key in NUMBERS and value == -1) or not problem_of({**RICH, key: value}):
            continue  # some keys take any text, which is checked below
        error = refused({**RICH, key: value})
        assert f"a.png carries {key} = " in error.message
    taken = [v for v in (*OTHER_KINDS, True) if not problem_of({**RICH, key: v})]
    texts = [v for v in taken if isinstance(v, str)]
    assert taken == texts + ([True] if key == "enhance" else []), (
        "only texts, where any text may be"
    )
    assert not any("\0" in text or "\ud800" in text for text in texts)


@pytest.mark.parametrize(
    ("key", "values"),
    {
        "prompt": ("", "  ", "x" * 20_001), "seed": (-1, 2**64, 1.5, "1"), "steps": (0, 1001, 4.0, "4"),
        "guidance": (-0.1, 100.5, "4"), "cache": (-0.1, 1.1), "quality": (0, 101), "upscale": (0.5, 9),
        "strength": (0, 1.01, -1), "upscale_strength": (0, 1.01), "control_scale": (-1, 11),
        "flow_shift": (0, -3.0, "3"), "guidance_interval": ("5", "0.8-0.2", "0-2", ""), "pag": ("x", "101", "2:x", 2),
        "size": ("big", "0x64", "64x99999", "64", 64, "64x64x64"), "drawn_size": ("16x64", "65x64", "64x999999", ""),
        "upscaled_from": ("0x0", "a"), "scheduler": ("ddim", ""), "device": ("tpu",), "backend": ("x",),
        "control_type": ("x",), "control_order": ("x",), "precision": ("int3", "fp32+int3", "fp32+"),
        "decode": ("somehow", "exact-tiles many", "exact-tiles 33", "exact-tiles 999999999", "whole 512"),
        "branches": ("several",), "loras": ("a", [1], ["a\0"]), "lora_digests": (["x"], "x", [None]),
        "image_digest": ("../../x", DIGEST.upper(), 5), "model_digest": ("x y",), "enhance": (1, "yes"),
        "model": ("a\0b", 5, "\udc00"), "template": ("", 5),
    }.items(),
)  # fmt: skip
def test_out_of_range(key: str, values: tuple[Any, ...]) -> None:
    for value in values:
        if key == "size" and value == "64":
            continue  # a square
        assert f"a.png carries {key} = " in refused({**RICH, key: value}).message


@pytest.mark.parametrize("key", ["prompt", "seed", "size"])
@pytest.mark.parametrize("is_null", [True, False])
def test_without(key: str, is_null: bool) -> None:
    settings = {**PLAIN, key: None}
    if not is_null:
        del settings[key]
    assert refused(settings).message == f"a.png carries no {key}"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"drawn_size": "32x32"}, "drawn_size"),
        ({"drawn_size": "1024x1024", "size": "500x1000"}, "drawn_size"),
        ({"size": "65x64", "drawn_size": "65x64"}, "drawn_size"),
        ({"size": "65x65", "drawn_size": None}, "drawn_size"),
        ({"pag": "2.0:8", "cache": 0.1}, "pag"),
        ({"strength": 0.5}, "strength"),
        ({"mask": "m.png", "mask_digest": DIGEST}, "mask"),
        ({"image": "in.png"}, "image"),
        ({"image_digest": DIGEST}, "image_digest"),
        ({"control": "in.png"}, "control"),
        ({"control_scale": 1.0}, "control_scale"),
        ({"control_type": "hed"}, "control_type"),
        ({"control_hed_digest": DIGEST}, "control_hed_digest"),
        ({"upscale": 2.0}, "upscale"),
        ({"upscale_strength": 0.5}, "upscale_strength"),
        ({"upscaled_from": "32x32"}, "upscaled_from"),
        ({"upscale": 2.0, "upscaled_from": "64x64"}, "size"),
        ({"loras": ["a"]}, "loras"),
        ({"loras": ["a", "b"], "lora_digests": [DIGEST]}, "lora_digests"),
        ({"decoder_digest": DIGEST}, "decoder_digest"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_contradictions(changes: dict[str, Any], key: str) -> None:
    message = refused({**PLAIN, **changes}).message
    assert "which does not fit" in message or "which makes no sense" in message
    assert f"{key} = " in message or f"no {key}" in message
