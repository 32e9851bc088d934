"""A labelled sheet: pictures where their labels say, and labels that can be read."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from sana_cli.images.contact_sheet import FONT_SIZE, LARGEST
from sana_cli.images.labelled_sheet import LabelledSheet


def colours(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (80, 60), (20 * (i % 12), 7 * (i // 12), 200)) for i in range(count)]


def written(text: str, size: tuple[int, int]) -> np.ndarray:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text((0, 0), text, "black", ImageFont.load_default(FONT_SIZE))
    return np.asarray(image)


@pytest.mark.parametrize(
    ("columns", "rows", "blocks"),
    [(4, 4, 1), (3, 1, 1), (2, 3, 2)],
)
def test_pictures_and_labels_are_where_they_belong(columns: int, rows: int, blocks: int) -> None:
    names = [
        [f"{word} {i}" for i in range(n)] if n > 1 else [""]
        for word, n in (("steps", columns), ("seed", rows), ("guidance", blocks))
    ]
    sheet = LabelledSheet.of(names[0], names[1], names[2], (80, 60))
    pictures = colours(columns * rows * blocks)
    image = sheet.compose(picture.copy() for picture in pictures)
    assert image.size == sheet.size
    pixels, number = np.asarray(image), 0
    for b in range(blocks):
        for r in range(rows):
            for c in range(columns):
                x, y = sheet.place(b, r, c)
                assert (pixels[y : y + 60, x : x + 80] == np.asarray(pictures[number])).all()
                number += 1
            if rows > 1:
                x, y = sheet.place(b, r, 0)
                assert (
                    pixels[y + 4 : y + 22, 6 : x - 4] == written(names[1][r], (x - 10, 18))
                ).all()
        for c in range(columns):
            x, y = sheet.place(b, 0, c)
            assert (pixels[y - 20 : y - 4, x + 6 : x + 80] == written(names[0][c], (74, 16))).all()


def test_large_pictures_are_scaled_down() -> None:
    sheet = LabelledSheet.of(
        [f"steps {i}" for i in range(8)], [f"seed {i}" for i in range(8)], [""], (1024, 768)
    )
    assert max(sheet.size) <= LARGEST
    assert sheet.cell[0] / sheet.cell[1] == pytest.approx(4 / 3, rel=0.02)


def test_a_picture_that_is_missing_is_grey() -> None:
    sheet = LabelledSheet.of(["a", "b"], [""], [""], (80, 60))
    image = sheet.compose([None, *colours(1)])
    assert image.getpixel(sheet.place(0, 0, 0)) == (211, 211, 211)
