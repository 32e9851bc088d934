"""Names that are not UTF-8: refused before work where a picture would tell them, kept whole elsewhere."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli.errors import ExitCode
from sana_cli.images.png import SHEET_KEY, read_settings

ODD = os.fsdecode(b"b\xff")
FAST = ("--size", "64x64", "--steps", "1", "--device", "cpu", "--seed", "1")


@pytest.mark.parametrize("option", ["--image", "--mask", "--lora", "--model"])
def test_what_a_picture_tells(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, option: str
) -> None:
    plain, odd = tmp_path / "plain.png", tmp_path / f"{ODD}.png"
    for path in (plain, odd):
        Image.new("RGB", (64, 64), "white").save(path)
    if option == "--model":
        odd = Path(shutil.copytree(tiny_model, tmp_path / ODD))
    words = ("--image", plain) if option == "--mask" else ()
    out = tmp_path / "out.png"
    result = sana("generate", "a cat", "-m", tiny_model, *FAST, *words, option, odd, "-o", out)
    assert result.code == ExitCode.USAGE
    assert "is not UTF-8" in result.err
    assert "get it again" not in result.err
    assert list(tmp_path.glob("out*")) == []


def test_pictures_on_a_sheet(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    result = sana(
        "generate",
        "a cat",
        "-m",
        tiny_model,
        *FAST,
        "--count",
        2,
        "--grid",
        "-o",
        tmp_path / f"{ODD}-.png",
    )
    assert result.code == 0, result.err
    names = {path.name for path in tmp_path.glob("*.png")}
    (sheet,) = (name for name in names if "grid" in name)
    told = read_settings(tmp_path / sheet)[SHEET_KEY]
    assert {name for name in names if name != sheet} <= set(str_values(told))
    assert sana("info", tmp_path / sheet).code == 0


def str_values(value: object) -> list[str]:
    """Every text in a document, keys included."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in str_values(part)]
    return [value] if isinstance(value, str) else []


def test_a_model_is_read(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    assert sana("info", shutil.copytree(tiny_model, tmp_path / ODD)).code == 0


def test_a_picture_that_was_interrupted(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its latents have the picture's name, and can be read all the same."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / f"{ODD}.png"
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", interrupt)
        drawn = sana("generate", "a cat", "-m", tiny_model, *FAST, "-o", out)
    assert drawn.code == ExitCode.INTERRUPTED
    (latents,) = tmp_path.glob("*.latents.safetensors")
    result = sana("decode", latents)
    assert result.code == 0, result.err
    assert Image.open(out).size == (64, 64)
