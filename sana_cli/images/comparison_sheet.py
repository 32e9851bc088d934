"""Compare pictures of two models: how close they are, and one labelled sheet with their difference.

A row holds the first model's picture, the second's, and their difference, amplified around grey.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sana_cli.images.contact_sheet import FONT_SIZE, LARGEST, caption_height, caption_lines

AMPLIFIED = 8  # times the difference
_CELL = 512  # pixels at most: the sheet is for looking at
_NARROWEST = 96  # pixels, of a cell
_EQUAL_DB = 99.0  # a number for JSON, where infinity is none

Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (H, W, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closeness:
    """The distance between two pictures, by their 8-bit values."""

    psnr_db: float  # 99 for equal ones
    largest_difference: int  # of 255
    mean_difference: float

    @classmethod
    def of(cls, before: Pixels, after: Pixels) -> "Closeness":
        difference = np.abs(after.astype(np.int32) - before.astype(np.int32))
        return cls(
            psnr_db=round(psnr_db(before, after), 2),
            largest_difference=int(difference.max()),
            mean_difference=round(float(difference.mean()), 3),
        )

    def __str__(self) -> str:
        return "equal" if self.largest_difference == 0 else f"PSNR {self.psnr_db:.1f} dB"


def psnr_db(before: Pixels, after: Pixels) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures; 99 for equal ones."""
    error = float(((before.astype(np.float32) - after.astype(np.float32)) ** 2).mean())
    return _EQUAL_DB if error == 0 else float(10 * np.log10(255**2 / error))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Two pictures of one size, and what the sheet says below them."""

    before: Pixels
    after: Pixels
    caption: str


def caption(prompt: str, seed: int, closeness: Closeness) -> str:
    """Return what a row says: seed and closeness first, since long prompts are cut."""
    return f"seed {seed}, {closeness}: {prompt}"


def most_rows() -> int:
    """Count the rows for which a sheet has room."""
    return LARGEST // (_NARROWEST + caption_height(1))


def sheet(rows: Iterable[Row], names: tuple[str, str], *, count: int, side: int) -> Image.Image:
    """Draw `count` rows of pictures of at most `side` pixels below their models' names."""
    title = caption_height(1)
    room = (LARGEST - title) // count - caption_height(1)
    cell = max(1, min(side, _CELL, room))
    step = cell + caption_height(1)
    image = Image.new("RGB", (3 * cell, title + count * step), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_SIZE)
    for column, name in enumerate((*names, f"difference x{AMPLIFIED}")):
        pen.text((column * cell + 6, 4), caption_lines(name, cell, 1), "black", font)
    for i, row in enumerate(rows):
        top = title + i * step
        for column, pixels in enumerate((row.before, row.after, _difference(row))):
            picture = Image.fromarray(pixels)
            picture.thumbnail((cell, cell), Image.Resampling.LANCZOS)
            left = column * cell + (cell - picture.width) // 2
            image.paste(picture, (left, top + (cell - picture.height) // 2))
        pen.text((6, top + cell + 4), caption_lines(row.caption, 3 * cell, 1), "black", font)
    return image


def _difference(row: Row) -> Pixels:
    difference = row.after.astype(np.int32) - row.before.astype(np.int32)
    return (128 + AMPLIFIED * difference).clip(0, 255).astype(np.uint8)
