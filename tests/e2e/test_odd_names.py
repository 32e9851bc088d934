"""Names that are not UTF-8: refused before work where a picture would tell them, kept whole elsewhere."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import SHEET_KEY, read_settings

ODD = os.fsdecode(b"b\xff")
FAST = ("--size", "64x64", "--steps", "1", "--device", "cpu", "--seed", "1")


@pytest.mark.parametrize("option", ["--image", "--mask", "--lora"])
def test_what_a_picture_tells(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, option: str
) -> None:
    plain, odd = tmp_path / "plain.png", tmp_path / f"{ODD}.png"
    for path in (plain, odd):
        Image.new("RGB", (64, 64), "white").save(path)
    (tmp_path / f"{ODD}.safetensors").touch()
    if option == "--lora":
        odd = tmp_path / f"{ODD}.safetensors"
    words = ("--image", plain) if option == "--mask" else ()
    out = tmp_path / "out.png"
    result = sana("generate", "a cat", "-m", tiny_model, *FAST, *words, option, odd, "-o", out)
    assert result.code == ExitCode.USAGE
    assert "is not UTF-8" in result.err
    assert "get it again" not in result.err
    assert list(tmp_path.glob("out*")) == []


@pytest.mark.parametrize("option", ["--image", "--lora"])
def test_what_lies_in_such_a_folder(sana: Callable[..., Any], tmp_path: Path, option: str) -> None:
    """Pictures store a path, not only the name at its end."""
    folder = tmp_path / ODD
    folder.mkdir()
    Image.new("RGB", (64, 64), "white").save(folder / "a.png")
    (folder / "a.safetensors").touch()
    name = folder / ("a.png" if option == "--image" else "a.safetensors")
    result = sana("generate", "a cat", *FAST, option, name, "-o", tmp_path / "out.png")
    assert result.code == ExitCode.USAGE
    assert "is not UTF-8" in result.err
    assert "rename the file or folder" in result.err


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


@pytest.mark.parametrize(
    "words", [("default", f"{ODD}/inner"), ("config", "set", "output", "pictures/")]
)
def test_what_settings_hold(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    """They are saved as whole paths, in a file of UTF-8."""
    shutil.copytree(tiny_model, tmp_path / ODD / "inner")
    monkeypatch.chdir(tmp_path / ODD if "output" in words else tmp_path)
    monkeypatch.setenv("SANA_CONFIG", str(tmp_path / "config.toml"))
    result = sana(*words)
    assert result.code == ExitCode.USAGE
    assert "text in UTF-8" in result.err
    assert not (tmp_path / "config.toml").exists()


def test_a_model_of_such_a_name(
    sana: Callable[..., Any],
    quantized: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a folder, and by its name where SANA_MODELS is such a folder: pictures tell the name with escapes."""
    for name in ("small", ODD):
        shutil.copytree(quantized("w8a8"), tmp_path / ODD / name)
    monkeypatch.setenv("SANA_MODELS", str(tmp_path / ODD))
    for number, model in enumerate((tmp_path / ODD / "small", "small", ODD, tmp_path / ODD / ODD)):
        out = tmp_path / f"{number}.png"
        result = sana("generate", "a cat", "-m", model, *FAST, "-o", out)
        assert result.code == 0, result.err
        assert read_settings(out)["model"] == ("small" if number < 2 else r"b\udcff")
    again = sana("generate", "--from", out, "-m", model, "-o", tmp_path / "again.png")
    assert again.code == 0, again.err
    compared = sana(
        "compare",
        "small",
        ODD,
        "--steps",
        1,
        "--size",
        "64x64",
        "-p",
        "a cat",
        "-o",
        tmp_path / "sheet.png",
    )
    assert compared.code == 0, compared.err


@pytest.mark.parametrize("around", ["", ODD])
def test_a_picture_that_was_interrupted(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    around: str,
) -> None:
    """Its latents have the picture's name, hold that of the model's folder, and can be read all the same."""
    model = shutil.copytree(tiny_model, tmp_path / around / "model")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / f"{ODD}.png"
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", interrupt)
        drawn = sana("generate", "a cat", "-m", model, *FAST, "-o", out)
    assert drawn.code == ExitCode.INTERRUPTED
    (latents,) = tmp_path.glob("*.latents.safetensors")
    result = sana("decode", latents)
    assert result.code == 0, result.err
    assert Image.open(out).size == (64, 64)
