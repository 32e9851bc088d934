"""`--upscale`: in pictures, `--from`, files of prompts, `--dry-run` and sizes; and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings

FAST = ("--steps", 2, "--upscale-strength", 0.5, "--seed", 5, "--device", "cpu")
CAP = ("--max-memory", "2GiB")  # plans follow from it, not from what happens to be free


def test_pictures_are_enlarged_and_repeated(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    first, again, plain, large = (tmp_path / f"{n}.png" for n in ("first", "again", "plain", "l"))
    words = ("a cat", "-m", tiny_model, *FAST, *CAP, "--size", "64x32", "--upscale", 2)
    document = sana("generate", *words, "-o", first, "--json").document["images"][0]
    assert (document["width"], document["height"]) == (128, 64)
    assert document["settings"]["upscaled_from"] == "64x32"
    assert Image.open(first).size == (128, 64)
    repeated = sana("generate", "--from", first, "-m", tiny_model, *CAP, "-o", again)
    assert repeated.code == 0, repeated.err
    assert read_settings(again) == read_settings(first)
    assert again.read_bytes() == first.read_bytes()
    assert "--size 64x32" in sana("info", first).out
    words = ("generate", "--from", first, "--upscale", 1, "-m", tiny_model)
    assert sana(*words, "-o", plain).code == 0
    assert Image.open(plain).size == (64, 32)
    assert "upscale_strength" not in read_settings(plain)
    words = ("generate", "a cat", "-m", tiny_model, *FAST, "--image", plain, "--upscale", 3)
    assert sana(*words, "-o", large).code == 0
    assert Image.open(large).size == (192, 96)
    assert "strength" not in read_settings(large)


def test_a_file_of_prompts_under_a_cap(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "p.jsonl"
    line = '{"prompt": "a cat", "upscale": 2, "upscale_strength": 0.5, "size": "64x64"}'
    file.write_text(f'{line}\n{{"prompt": "an owl"}}\n')
    words = ("--prompts", file, "-m", tiny_model, *FAST[:2], "--size", "32x32", "--device", "cpu")
    tiled = ("--tile", 32, "-o", f"{tmp_path}/o/", "--json")
    drawn = sana("generate", *words, *tiled).told("drawn")
    assert [each["width"] for each in drawn] == [128, 32]
    assert len(sana("generate", *words, *tiled).told("done")) == 2, "found by its settings"


@pytest.mark.parametrize("tile", [32, 64, 96])
def test_tiles_leave_no_seams(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, tile: int
) -> None:
    """Encoded and decoded in tiles, both drawings: no pixel is off by more than 1 of 255."""
    words = ("generate", "a cat", "-m", tiny_model, *FAST, "--precision", "fp32", "--upscale", 2)
    sizes = ("--size", "96x64", "--plan", "stages")
    pictures = []
    for name, more in (("whole", ()), ("tiles", ("--tile", tile))):
        result = sana(*words, *sizes, *more, "-o", tmp_path / f"{name}.png")
        assert result.code == 0, result.err
        with Image.open(tmp_path / f"{name}.png") as image:
            pictures.append(np.asarray(image).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_the_forecast_has_both_drawings(sana: Callable[..., Any], tiny_model: Path) -> None:
    words = ("generate", "a cat", "-m", tiny_model, *FAST, "--size", "64x64", "--upscale", 2)
    document = sana(*words, "--dry-run", "--json").document
    stages = {stage["stage"]: stage["total"] for stage in document["stages"]}
    assert list(stages) == ["text", "first denoise", "first decode", "encode", "denoise", "decode"]
    assert document["peak_bytes"] == max(stages.values())
    assert "first denoise" in sana(*words, "--dry-run").out


def test_it_refuses_what_cannot_be(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    result = sana("generate", "a cat", "-m", tiny_model, "--upscale", 9, "-o", tmp_path / "x.png")
    assert result.code == ExitCode.USAGE
    assert "--upscale 9 is out of range" in result.err
    assert "hint: " in result.err
    assert list(tmp_path.iterdir()) == []
