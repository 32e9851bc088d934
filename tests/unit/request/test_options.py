"""A picture's settings become options; what another program made of them is refused by name."""

import sys
from typing import Any

import pytest

from sana_cli.errors import SanaError
from sana_cli.request.options import options_of_picture, require_library

SETTINGS: dict[str, Any] = {
    "prompt": "a cat", "seed": 3, "steps": 4, "guidance": 4.5, "size": "64x96", "drawn_size": "64x96",
    "model": "builtin", "scheduler": "flow-dpm", "precision": "fp16+bf16", "decode": "exact-tiles 512",
}  # fmt: skip


def test_what_a_picture_says() -> None:
    options = options_of_picture(SETTINGS, "a.png")
    assert (options.prompt, options.seed, options.guidance_scale) == ("a cat", 3, 4.5)
    assert (options.width, options.height, options.bins) == (64, 96, False)
    assert (options.precision, options.decode, options.tile) == ("fp16", "exact-tiles", 512)
    assert options.negative_prompt == "", "a setting does not change what is repeated"
    assert options.sources["model"] == "a.png"


def test_a_picture_that_was_resized_was_drawn_with_bins() -> None:
    assert options_of_picture(
        {**SETTINGS, "size": "1000x1000", "drawn_size": "1024x1024"}, "a.png"
    ).bins


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompt", 5), ("seed", "x"), ("seed", 2**70), ("guidance", float("inf")), ("scheduler", "ddim"),
        ("size", "big"), ("decode", "somehow"), ("decode", "exact-tiles many"), ("precision", "int3"),
        ("branches", "several"), ("guidance_interval", "5"), ("loras", "a"), ("loras", [1]), ("model", "a\0b"),
        ("device", "tpu"), ("enhance", 1),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named(key: str, value: object) -> None:
    with pytest.raises(SanaError, match=f"a.png carries {key} = .*, which makes no sense"):
        options_of_picture({**SETTINGS, key: value}, "a.png")


def test_kernels_of_a_library_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)  # as if it were not there
    require_library("auto")
    with pytest.raises(SanaError, match="--backend torchao needs a library") as caught:
        require_library("torchao")
    assert "pip install" in caught.value.hint
