"""Many pictures on one sheet, in their order, each over its caption. No torch.

Pictures are read one at a time and scaled to their cells at once, so that a sheet of thousands takes no more memory than the
sheet itself and the largest of them.
"""

import math
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from sana_cli import files
from sana_cli.errors import SanaError
from sana_cli.images import file_names
from sana_cli.images.picture_file import SHEET_KEY, load_picture, read_settings
from sana_cli.images.png import save_png

LARGEST = 4096  # pixels, of either side of a sheet
FONT_SIZE, _LINE = 13, 20  # pixels
_CHARACTER = 6.7  # pixels, of the font's wider characters
_NARROWEST = 64  # pixels, of a cell that has room for a caption


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A saved picture of a sheet."""

    path: Path
    prompt: str
    seed: int
    size: tuple[int, int]  # width and height, pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Rows of cells of (width, height) pixels, each with room for lines of caption below it."""

    columns: int
    rows: int
    cell: tuple[int, int]
    caption_lines: int

    @classmethod
    def near_square(cls, count: int, largest: tuple[int, int], *, caption_lines: int) -> "Layout":
        """Lay out `count` pictures of at most `largest` (width, height), scaled down if the sheet
        would exceed `LARGEST`.
        """
        columns = math.ceil(math.sqrt(count))
        rows = math.ceil(count / columns)
        if min(largest[0], LARGEST // columns) < _NARROWEST:
            caption_lines = 0
        room = LARGEST / columns, LARGEST / rows - caption_height(caption_lines)
        scale = min(1.0, room[0] / largest[0], room[1] / largest[1])
        cell = max(1, int(largest[0] * scale)), max(1, int(largest[1] * scale))
        return cls(columns=columns, rows=rows, cell=cell, caption_lines=caption_lines)

    def compose(self, pictures: Iterable[Image.Image], captions: Sequence[str]) -> Image.Image:
        """Draw the sheet, with every picture in the middle of its cell."""
        (width, height), line = self.cell, self.caption_lines
        step = height + caption_height(line)
        sheet = Image.new("RGB", (self.columns * width, self.rows * step), "white")
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
        for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
            left, top = i % self.columns * width, i // self.columns * step
            picture.thumbnail((width, height), Image.Resampling.LANCZOS)
            left_margin, above = (width - picture.width) // 2, (height - picture.height) // 2
            sheet.paste(picture, (left + left_margin, top + above))
            if line:
                text = caption_lines(caption, width, line)
                pen.multiline_text((left + 6, top + height + 4), text, "black", font)
        return sheet


def caption_lines(caption: str, width: int, lines: int) -> str:
    """Break a caption into at most so many lines of `width` pixels; what has no room ends in dots."""
    # The font that comes with Pillow has no other letters.
    latin = caption.encode("latin-1", "replace").decode("latin-1")
    characters = max(1, int((width - 6) / _CHARACTER))
    placeholder = " ..."[-characters:]
    return "\n".join(textwrap.wrap(latin, characters, max_lines=lines, placeholder=placeholder))


def caption_height(lines: int) -> int:
    return lines * _LINE + 4 if lines else 0


class ContactSheet:
    """The additional file that `--grid` writes."""

    def __init__(
        self, target: Path | None, *, name: str, overwrite: bool, is_folder: bool = False
    ) -> None:
        """Place the sheet next to the pictures of `target`: a file, a folder or None, or a pattern.

        `is_folder`: the folder may not exist yet. Raises SanaError (usage) where it cannot be
        written, or if `target` is a file that already has a sheet.
        """
        self.overwrite = overwrite
        if target is None or target.is_dir() or files.is_new_folder(target, is_folder):
            self.path = (target or Path()) / f"{name}-grid.png"
        elif file_names.is_pattern(target):
            folder, stem = file_names.without_fields(target)
            self.path = folder / f"{stem or name}-grid.png"
        else:
            suffix = target.suffix if target.suffix.lower() == ".png" else ".png"
            self.path = target.with_name(f"{target.stem}-grid{suffix}")
            if os.path.lexists(self.path) and not overwrite:
                raise files.already_exists(self.path)
        is_pattern = target is not None and file_names.is_pattern(target)
        files.check_writable(self.path, folder_is_new=is_folder or is_pattern)

    def save(
        self, cells: Sequence[Cell], *, settings: Mapping[str, Any], notice: Callable[[str], None]
    ) -> Path:
        """Write the sheet, unless the same one is there. `settings` are what the pictures have in common."""
        prompts = {cell.prompt for cell in cells}
        largest = max(cell.size[0] for cell in cells), max(cell.size[1] for cell in cells)
        layout = Layout.near_square(
            len(cells), largest, caption_lines=1 if len(prompts) == 1 else 2
        )
        carried = {
            **settings,
            **({"prompt": cells[0].prompt} if len(prompts) == 1 else {}),
            "grid": f"{layout.columns}x{layout.rows}",
            SHEET_KEY: {
                os.path.relpath(cell.path, self.path.parent): f"{cell.prompt} --seed {cell.seed}"
                for cell in cells
            },
        }
        path, is_there = self._place(cells, carried)
        if is_there:
            return path
        if layout.cell != largest:
            width, height = layout.cell
            notice(
                f"pictures are scaled to {width}x{height} on {path.name}: its sides stay within {LARGEST}"
            )
        if len(prompts) == 1:
            captions = [f"seed {cell.seed}" for cell in cells]
        else:
            captions = [f"{cell.prompt} --seed {cell.seed}" for cell in cells]
        sheet = layout.compose((load_picture(cell.path) for cell in cells), captions)
        first = read_settings(cells[0].path)
        save_png(sheet, path, settings=carried, first=first, overwrite=self.overwrite)
        return path

    def _place(self, cells: Sequence[Cell], carried: Mapping[str, Any]) -> tuple[Path, bool]:
        """A name that is free, or that of the same sheet; and whether it is there."""
        pictures = {cell.path for cell in cells}
        path, number = self.path, 2
        while path in pictures or (os.path.lexists(path) and not self.overwrite):
            if path not in pictures and is_saved(path, carried, pictures):
                return path, True
            path, number = self.path.with_stem(f"{self.path.stem}-{number}"), number + 1
        return path, False


def is_saved(path: Path, carried: Mapping[str, Any], pictures: Iterable[Path]) -> bool:
    """Return whether a file is the sheet of these pictures, and none has changed since."""
    try:
        drawn = path.stat().st_mtime
        return read_settings(path) == carried and all(
            picture.stat().st_mtime <= drawn for picture in pictures
        )
    except (SanaError, OSError):
        return False
