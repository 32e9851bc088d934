"""`--grid`: one more file with all pictures."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings
from sana_cli.images.png import XMP_KEY
from sana_cli.images.xmp import DIGITAL_SOURCE_TYPE

SMALL = ("--size", "64x96", "--steps", "1", "--seed", "5", "--device", "cpu")


@pytest.fixture
def draw(sana: Callable[..., Any], tiny_model: Path) -> Callable[..., Any]:
    return lambda *words: sana("generate", *words, *SMALL, "-m", tiny_model, "--grid")


def cells_of(path: Path, columns: int, width: int, height: int, caption: int) -> list[Image.Image]:
    """The pictures on a sheet, without captions."""
    sheet = Image.open(path)
    assert sheet.width == columns * width
    rows = sheet.height // (height + caption)
    return [
        sheet.crop((x, y, x + width, y + height))
        for y in range(0, rows * (height + caption), height + caption)
        for x in range(0, sheet.width, width)
    ]


def test_pictures_of_one_prompt(draw: Any, sana: Any, tmp_path: Path) -> None:
    """In the order of their seeds, pixel for pixel, over captions; the sheet tells what is on it."""
    result = draw("a cat", "--count", 3, "-o", tmp_path / "a.png", "--json")
    assert result.code == 0, result.err
    sheet = tmp_path / "a-grid.png"
    assert result.document["grid"] == str(sheet)
    cells = cells_of(sheet, 2, 64, 96, 24)
    for seed, cell in zip((5, 6, 7), cells, strict=False):
        assert cell.tobytes() == Image.open(tmp_path / f"a-{seed}.png").tobytes()
    assert set(cells[3].getdata()) == {(255, 255, 255)}
    settings = read_settings(sheet)
    assert (settings["prompt"], settings["grid"]) == ("a cat", "2x2")
    assert settings["pictures"]["a-6.png"] == "a cat --seed 6"
    texts = Image.open(sheet).info
    assert DIGITAL_SOURCE_TYPE in texts[XMP_KEY]
    first = Image.open(tmp_path / "a-5.png").info
    assert texts["parameters"] == first["parameters"]
    assert "prompt" not in texts
    told = sana("info", sheet)
    assert "a-6.png: a cat --seed 6" in told.out
    assert "sana generate" not in told.out
    repeated = sana("generate", "--from", sheet)
    assert (repeated.code, "several pictures" in repeated.err) == (ExitCode.USAGE, True)


def test_names_that_are_taken(draw: Any, tmp_path: Path) -> None:
    """Refused before any work if the name was asked for; another number where it was not; replaced with --force."""
    taken = tmp_path / "a-grid.png"
    taken.write_bytes(b"mine")
    words = ("a cat", "--count", 2, "-o", tmp_path / "a.png")
    refused = draw(*words)
    assert (refused.code, "a-grid.png exists" in refused.err) == (ExitCode.USAGE, True)
    assert os.listdir(tmp_path) == ["a-grid.png"]
    forced = draw(*words, "--force")
    assert (forced.code, forced.out.splitlines()[-1]) == (0, str(taken))
    assert read_settings(taken)["grid"] == "2x1"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a-cat-grid.png").write_bytes(b"mine")
    assert draw("a cat", "--count", 2, "-o", folder).out.endswith("a-cat-grid-2.png\n")
    assert (folder / "a-cat-grid.png").read_bytes() == b"mine"


def sheet(result: Any) -> str:
    (told,) = result.told("grid")
    return str(told["path"])


def test_a_file_of_prompts(draw: Any, tmp_path: Path) -> None:
    """All of it, also what was there before; a sheet that is right already stays."""
    prompts, folder = tmp_path / "my list.txt", tmp_path / "out"
    folder.mkdir()
    prompts.write_text("a cat\na dog\n")
    words = ("--prompts", prompts, "-o", folder, "--json")
    assert sheet(draw(*words)) == str(folder / "my-list-grid.png")
    prompts.write_text("a cat\na dog\n大きな猫\n")
    longer = draw(*words)
    assert (len(longer.told("drawn")), sheet(longer)) == (1, str(folder / "my-list-grid-2.png"))
    pictures = read_settings(folder / "my-list-grid-2.png")["pictures"]
    assert list(pictures.values()) == ["a cat --seed 5", "a dog --seed 5", "大きな猫 --seed 5"]
    again = draw(*words)
    assert (again.told("drawn"), sheet(again)) == ([], sheet(longer))
    prompts.write_text("a cat\na dog\n")
    assert sheet(draw(*words)).endswith("my-list-grid.png")
    os.utime(folder / "1-a-cat.png", (2**32, 2**32))
    assert sheet(draw(*words)).endswith("my-list-grid-3.png"), "a picture has changed"


def test_patterns(draw: Any, tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    for pattern, expected in (
        ("{slug}-{seed}.png", "a-cat-grid.png"),
        ("my {seed}.png", "my-grid.png"),
        ("cats/{{x}} {seed:03d}_{slug}.png", "cats/{x}-grid.png"),
        ("cats/1-{seed}-{index}-b.png", "cats/1-b-grid.png"),
    ):
        result = draw("a cat", "--count", 2, "-o", tmp_path / pattern)
        assert result.code == 0, result.err
        assert result.out.endswith(f"\n{tmp_path / expected}\n")


def test_a_single_picture_needs_none(draw: Any, tmp_path: Path) -> None:
    result = draw("a cat", "-o", tmp_path / "a.png")
    assert "--grid has no effect on a single picture" in result.err
    assert os.listdir(tmp_path) == ["a.png"]
