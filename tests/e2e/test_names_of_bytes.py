"""Names of files are any bytes, texts in pictures UTF-8: such names are refused before any work, or kept whole."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli.checkpoint import BUILTIN_FOLDER
from sana_cli.errors import ExitCode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
FAST = ("--size", "64x64", "--steps", "2", "--seed", "1")
ODD = os.fsdecode(b"b\xff")


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "white").save("plain.png")
    Image.new("RGB", (64, 64), "white").save(f"{ODD}.png")
    os.symlink(BUILTIN_FOLDER, "model")
    shutil.copytree(BUILTIN_FOLDER, f"{ODD}-model")
    os.symlink(f"{ODD}-model", f"{ODD}.pth")
    Path(f"{ODD}.safetensors").write_bytes(b"")


@pytest.mark.parametrize(
    "words",
    [
        ("--image", f"{ODD}.png", "-o", "a.png"),
        ("--image", "plain.png", "--mask", f"{ODD}.png", "-o", "a.png"),
        ("--model", f"{ODD}-model", "-o", "a.png"),
        ("--lora", f"{ODD}.safetensors", "-o", "a.png"),
        ("--grid", "--count", "2", "-o", f"{ODD}-.png"),
        ("--grid", "--count", "2", "-o", f"{ODD}-{{seed}}.png"),
    ],
)
def test_refused_before_any_work(
    sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.delitem(sys.modules, "sana_cli.run", raising=False)
    before = sorted(os.listdir())
    result = sana("generate", "x", *FAST, *words)
    assert result.code == ExitCode.USAGE, result.err
    assert "is not UTF-8" in result.err
    assert sorted(os.listdir()) == before
    assert "sana_cli.run" not in sys.modules


def test_kept_whole(sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a picture's own name, and as a folder around the model, which only the kept latents tell."""
    os.mkdir(f"{ODD}-folder")
    shutil.copytree(BUILTIN_FOLDER, f"{ODD}-folder/inner")
    drawing = ("generate", "x", *FAST, "--model", f"{ODD}-folder/inner", "-o", f"{ODD}-out.png")
    with monkeypatch.context() as patch:
        patch.setattr("sana_cli.finishing.image_io.save_png", _interrupt)
        assert sana(*drawing).code == ExitCode.INTERRUPTED
    latents = f"{ODD}-out.png.latents.safetensors"
    assert latents in os.listdir()
    result = sana("decode", latents)
    assert result.code == 0, result.err
    assert Image.open(f"{ODD}-out.png").size == (64, 64)
    assert latents not in os.listdir()


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
