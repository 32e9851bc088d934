"""A sheet whose columns, rows and blocks are values of options: one labelled picture for each combination. No torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from sana_cli.images.contact_sheet import FONT_SIZE, LARGEST, caption_height, caption_lines

_CHARACTER = 7  # pixels, of the font's wider characters
_WIDEST_LABEL = 220  # pixels, of labels at the left
_GAP = 6  # pixels around a label
_SMALLEST = 16  # pixels, of a cell


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSheet:
    """Blocks of rows of cells of (width, height) pixels, with labels over columns and left of rows."""

    columns: Sequence[str]
    rows: Sequence[str]  # one empty label: there are no rows of labels
    blocks: Sequence[str]  # one empty label: there is one block
    cell: tuple[int, int]

    @classmethod
    def of(
        cls,
        columns: Sequence[str],
        rows: Sequence[str],
        blocks: Sequence[str],
        largest: tuple[int, int],
    ) -> "LabelledSheet":
        """Lay out pictures of at most `largest` (width, height), scaled down if the sheet would exceed `LARGEST`."""
        sheet = cls(columns=columns, rows=rows, blocks=blocks, cell=(1, 1))
        line = caption_height(1)
        lines = line * len(blocks) * (2 if any(blocks) else 1)
        room = (
            (LARGEST - sheet.left) / len(columns),
            (LARGEST - lines) / (len(rows) * len(blocks)),
        )
        scale = min(1.0, room[0] / largest[0], room[1] / largest[1])
        cell = (max(_SMALLEST, int(largest[0] * scale)), max(_SMALLEST, int(largest[1] * scale)))
        return cls(columns=columns, rows=rows, blocks=blocks, cell=cell)

    @property
    def left(self) -> int:
        """Width of the labels left of rows, pixels."""
        longest = max(map(len, self.rows))
        return min(_WIDEST_LABEL, longest * _CHARACTER + 2 * _GAP) if longest else 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.left + len(self.columns) * self.cell[0], len(self.blocks) * self._block_height

    @property
    def _block_height(self) -> int:
        return self._head + len(self.rows) * self.cell[1]

    @property
    def _head(self) -> int:
        return caption_height(1) * (2 if any(self.blocks) else 1)

    def place(self, block: int, row: int, column: int) -> tuple[int, int]:
        """Return the left upper corner of a cell, pixels."""
        width, height = self.cell
        return self.left + column * width, block * self._block_height + self._head + row * height

    def compose(self, pictures: Iterable[Image.Image | None]) -> Image.Image:
        """Draw the sheet; pictures come block by block, row by row. None leaves a cell grey."""
        sheet = Image.new("RGB", self.size, "white")
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
        width, height = self.cell
        given = iter(pictures)
        for b, block in enumerate(self.blocks):
            top = b * self._block_height
            if block:
                pen.text((_GAP, top + 4), caption_lines(block, self.size[0], 1), "black", font)
            for c, column in enumerate(self.columns):
                left, below = self.place(b, 0, c)
                pen.text(
                    (left + _GAP, below - caption_height(1) + 4),
                    caption_lines(column, width, 1),
                    "black",
                    font,
                )
            for r, row in enumerate(self.rows):
                _, y = self.place(b, r, 0)
                if row:
                    label = caption_lines(row, self.left, max(1, height // 20))
                    pen.multiline_text((_GAP, y + 4), label, "black", font)
                for c in range(len(self.columns)):
                    x, y = self.place(b, r, c)
                    picture = next(given)
                    if picture is None:
                        sheet.paste("lightgrey", (x, y, x + width, y + height))
                        continue
                    picture.thumbnail((width, height), Image.Resampling.LANCZOS)
                    sheet.paste(
                        picture,
                        (x + (width - picture.width) // 2, y + (height - picture.height) // 2),
                    )
        return sheet
