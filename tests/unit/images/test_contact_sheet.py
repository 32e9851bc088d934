"""Sheets: where pictures and captions lie, what the file is called, and what it carries."""

import os
from pathlib import Path

import pytest
from PIL import Image

from sana_cli.errors import ExitCode, SanaError
from sana_cli.images.contact_sheet import LARGEST, Cell, ContactSheet, Layout, caption_lines
from sana_cli.images.picture_file import read_settings
from sana_cli.images.png import save_png


def saved(folder: Path, seed: int, prompt: str = "x") -> Cell:
    path = folder / f"{seed}.png"
    save_png(Image.new("RGB", (8, 8)), path, settings={"prompt": prompt, "seed": seed})
    return Cell(path=path, prompt=prompt, seed=seed, size=(8, 8))


def silent(message: str) -> None:
    pytest.fail(f"nothing to tell: {message}")


@pytest.mark.parametrize("count", [2, 3, 5, 17, 10_000])
@pytest.mark.parametrize("size", [(64, 96), (1024, 1024), (4096, 512), (16384, 16384)])
def test_sheets_stay_small(count: int, size: tuple[int, int]) -> None:
    layout = Layout.near_square(count, size, caption_lines=2)
    pictures = (
        Image.new("RGB", size if count < 6 and size[0] < 9999 else (8, 8)) for _ in range(count)
    )
    sheet = layout.compose(pictures, ["x"] * count)
    assert max(sheet.size) <= LARGEST
    assert abs(layout.columns - layout.rows) <= 1
    assert layout.columns * layout.rows >= count
    assert layout.cell[0] / layout.cell[1] == pytest.approx(size[0] / size[1], rel=0.15)


def test_scaled_pictures_are_announced(tmp_path: Path) -> None:
    """And each kind of picture is in the middle of its cell, as large as it fits."""
    cells = []
    for name, size in (("wide", (4096, 64)), ("high", (64, 4096))):
        path = tmp_path / f"{name}.png"
        settings = {"prompt": name, "seed": 1, "pictures": {}}
        save_png(Image.new("RGB", size, "red"), path, settings=settings)
        cells.append(Cell(path=path, prompt=name, seed=1, size=size))
    told: list[str] = []
    sheet = ContactSheet(tmp_path / "a.png", name="x", overwrite=False)
    path = sheet.save(cells, settings={"model": "m"}, notice=told.append)
    assert "pictures are scaled to 2048x2048 on a-grid.png" in told[0]
    with Image.open(path) as image:
        assert image.size == (4096, 2048 + 44)
        assert image.getpixel((1024, 1024)) == image.getpixel((2048 + 1024, 10)) == (255, 0, 0)
        assert image.getpixel((1024, 900)) == image.getpixel((2048 + 900, 1024)) == (255, 255, 255)


def test_a_picture_that_is_gone(tmp_path: Path) -> None:
    cells = [Cell(path=tmp_path / f"{n}.png", prompt="x", seed=n, size=(8, 8)) for n in (1, 2)]
    with pytest.raises(SanaError, match="no such picture"):
        ContactSheet(tmp_path, name="x", overwrite=False).save(
            cells, settings={}, notice=lambda message: None
        )
    assert os.listdir(tmp_path) == []


def test_a_sheet_of_pictures_of_all_sizes() -> None:
    layout = Layout.near_square(3, (8, 8), caption_lines=0)
    assert layout.compose([Image.new("RGB", (8, 8))] * 3, ["", "", ""]).size == (16, 16)


def test_captions() -> None:
    """Other letters than those of the font are shown as ?; what has no room ends in dots."""
    assert caption_lines("a cat --seed 5", 200, 1) == "a cat --seed 5"
    assert caption_lines("a cat on a mat", 64, 2) == "a cat on\na mat"
    assert caption_lines("a cat on a mat and more", 64, 2).endswith("...")
    assert caption_lines("狐", 64, 1) == "?"
    assert Layout.near_square(100 * 100, (64, 64), caption_lines=2).caption_lines == 0


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, "name-grid.png"), ("folder", "folder/name-grid.png"), ("new/", "new/name-grid.png"),
        ("a.png", "a-grid.png"), ("cats {seed}.png", "cats-grid.png"), ("{seed}.png", "name-grid.png"),
    ],
)  # fmt: skip
def test_what_a_sheet_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str | None, expected: str
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    path = None if target is None else Path(target)
    sheet = ContactSheet(path, name="name", overwrite=False, is_folder=target == "new/")
    assert sheet.path == Path(expected)


def test_a_sheet_that_was_asked_for_by_name_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a-grid.png").touch()
    with pytest.raises(SanaError, match="exists") as caught:
        ContactSheet(tmp_path / "a.png", name="x", overwrite=False)
    assert caught.value.code == ExitCode.USAGE
    assert ContactSheet(tmp_path / "a.png", name="x", overwrite=True).path.name == "a-grid.png"


def test_the_same_sheet_is_written_once(tmp_path: Path) -> None:
    """Another one gets another number, also where a picture has changed since, or is called like a sheet."""
    cells = [saved(tmp_path, seed) for seed in (1, 2)]

    def save(cells: list[Cell]) -> str:
        sheet = ContactSheet(tmp_path, name="x", overwrite=False)
        return sheet.save(cells, settings={"model": "m"}, notice=silent).name

    assert save(cells) == "x-grid.png"
    written = (tmp_path / "x-grid.png").stat().st_mtime_ns
    assert save(cells) == "x-grid.png"
    assert (tmp_path / "x-grid.png").stat().st_mtime_ns == written
    assert save([*cells, saved(tmp_path, 3)]) == "x-grid-2.png"
    os.utime(cells[0].path, (2**32, 2**32))
    assert save(cells) == "x-grid-3.png"
    told = read_settings(tmp_path / "x-grid-2.png")
    assert (told["model"], told["prompt"], told["grid"]) == ("m", "x", "2x2")
    assert told["pictures"] == {f"{n}.png": f"x --seed {n}" for n in (1, 2, 3)}


def test_pictures_of_several_prompts_share_none(tmp_path: Path) -> None:
    cells = [saved(tmp_path, 1, "a cat"), saved(tmp_path, 2, "a dog")]
    sheet = ContactSheet(tmp_path, name="x", overwrite=False)
    told = read_settings(sheet.save(cells, settings={}, notice=silent))
    assert "prompt" not in told
    assert list(told["pictures"].values()) == ["a cat --seed 1", "a dog --seed 2"]
