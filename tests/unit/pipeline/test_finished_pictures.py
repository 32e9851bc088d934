"""Finished pictures are found by what is in their files, under any number that a pattern may have given them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli.images.file_names import Named
from sana_cli.images.png import save_png
from sana_cli.pipeline.finished_pictures import FinishedPictures, fits

DIGEST = "d" * 16


def wanted(prompt: str = "a cat", **changes: Any) -> dict[str, Any]:
    return {"prompt": prompt, "seed": 3, "steps": 2, **changes}


@pytest.fixture
def drawn(tmp_path: Path) -> Callable[..., Path]:
    """Save a picture with settings, as a batch would."""

    def save(name: str, settings: dict[str, Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(Image.new("RGB", (2, 2)), path, settings={**settings, "version": "x"})
        return path

    return save


@pytest.mark.parametrize(
    ("found", "is_it"),
    [
        (wanted(), True),
        (wanted(device="cuda", version="0.1"), True),
        (wanted(model_digest=DIGEST), True),
        (wanted(model_digest="e" * 16), False),
        (wanted(steps=3), False),
        (wanted(prompt="a dog"), False),
        ({}, False),
    ],
    ids=["same", "more is said", "same model", "another model", "steps", "prompt", "nothing"],
)
def test_what_fits(found: dict[str, Any], is_it: bool) -> None:
    assert fits(found, wanted(), DIGEST) == is_it


@pytest.mark.parametrize(
    "content", [None, b"", b"\x89PNG\r\n\x1a\n", b"GIF89a"], ids=["missing", "empty", "cut", "gif"]
)
def test_what_is_no_picture_of_ours(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "1-a-cat.png"
    if content is not None:
        path.write_bytes(content)
    pictures = FinishedPictures(tmp_path / "{index}-{slug}.png", DIGEST)
    assert pictures.settings_of(path) is None
    assert not pictures.is_at(path, wanted())
    assert pictures.elsewhere(Named("a cat", 3, 1), wanted()) == []


def test_a_picture_of_another_program(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "1-a-cat.png")
    pictures = FinishedPictures(tmp_path / "{index}-{slug}.png", DIGEST)
    assert pictures.settings_of(tmp_path / "1-a-cat.png") is None


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{index}-{slug}.png", ["4-a-cat.png", "004-a-cat.png", "17-a-cat-2.png"]),
        ("{slug}-{seed}-{index:03}.png", ["a-cat-3-009.png", "a-cat-3-1.png"]),
        ("{index}/{slug}.png", ["1/a-cat.png", "23/a-cat.png"]),
        ("{slug}.png", ["a-cat.png", "a-cat-2.png"]),
    ],
)
def test_under_other_numbers(
    drawn: Callable[..., Path], tmp_path: Path, pattern: str, names: list[str]
) -> None:
    paths = [drawn(name, wanted()) for name in names]
    drawn("other.png", wanted())
    for name in names:
        drawn(name.replace("cat", "dog"), wanted("a dog"))
    pictures = FinishedPictures(tmp_path / pattern, DIGEST)
    found = pictures.elsewhere(Named("a cat", 3, 99), wanted())
    assert sorted(found) == sorted(paths)
    assert pictures.elsewhere(Named("a cat", 3, 99), wanted(steps=9)) == []
    assert pictures.elsewhere(Named("a cat", 4, 99), wanted(seed=4)) == []


def test_names_that_mean_another_picture(drawn: Callable[..., Path], tmp_path: Path) -> None:
    """A file is found by its name and by what is in it: one of them is not enough."""
    drawn("1-a-dog.png", wanted("a cat"))
    drawn("2-a-cat.png", wanted("a dog"))
    pictures = FinishedPictures(tmp_path / "{index}-{slug}.png", DIGEST)
    assert pictures.elsewhere(Named("a cat", 3, 1), wanted("a cat")) == []


def test_each_file_is_read_once(drawn: Callable[..., Path], tmp_path: Path) -> None:
    """A batch asks for it once a line; what it read stays so while it plans."""
    path = drawn("4-a-cat.png", wanted())
    pictures = FinishedPictures(tmp_path / "{index}-{slug}.png", DIGEST)
    assert pictures.is_at(path, wanted())
    path.unlink()
    assert pictures.is_at(path, wanted())
    assert not FinishedPictures(tmp_path / "{index}-{slug}.png", DIGEST).is_at(path, wanted())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    pictures = FinishedPictures(tmp_path / "no/{index}-{slug}.png", DIGEST)
    assert pictures.elsewhere(Named("a cat", 3, 1), wanted()) == []
