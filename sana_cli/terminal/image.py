"""Pictures in a terminal, drawn by textual-image: sixels, kitty's protocol, or half-blocks. No torch.

The terminal is asked by us, not by the library: that asks whenever it is imported, gives up after a tenth of a second
(an answer over a slow line then lands in the user's prompt), and would stop a job in the background.
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import Any, Literal

from PIL import Image

from sana_cli.images.picture_file import load_picture
from sana_cli.images.reading import PHOTOS
from sana_cli.terminal.display import is_screen

Graphics = Literal["sixel", "kitty", "blocks"]

_PATIENCE_S = 1.0  # every terminal in use answers the last question; this is for the slowest line
_KITTY = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"  # would it take a picture of one pixel?
_CELL_SIZE, _ATTRIBUTES = "\x1b[16t", "\x1b[c"
_CLEAR_LINE = "\r\x1b[K"  # some old terminals print what they do not know
_ANSWERED = re.compile(rb"\x1b\[\?([\d;]*)c")
_USUAL_CELL = (10, 20)  # pixels, of a VT340
_MOST_COLUMNS = 290  # what the placeholders of kitty's protocol can count to
SHARE = 0.75  # of the terminal's rows, so that what was said before stays in sight


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """A terminal on stdout, how it can show pictures, and its cells' (width, height) in pixels."""

    graphics: Graphics
    cell: tuple[int, int] = _USUAL_CELL

    def show(self, image: Image.Image, *, share: float = SHARE) -> int:
        """Draw it where the cursor is, in its own size if that is at most a share of the terminal's rows.

        Returns the rows that it takes.
        """
        from rich.console import Console

        columns, rows = self._cells_for(image, share)
        # The protocol of kitty has numbers in the 24 bits of a colour.
        system: Any = "truecolor" if self.graphics == "kitty" else "auto"
        console = Console(
            file=sys.stdout, force_terminal=True, no_color=False, color_system=system, width=columns
        )
        console.print(_renderable(self.graphics, self.cell)(image, columns, rows))
        return rows

    def erase(self, rows: int) -> None:
        """Erase that many rows above the cursor, and what is below."""
        sys.stdout.write(f"\x1b[{rows}A\r\x1b[J")
        sys.stdout.flush()

    def show_file(self, path: Path) -> None:
        """Draw a saved picture."""
        self.show(load_picture(path, PHOTOS))

    def _cells_for(self, image: Image.Image, share: float) -> tuple[int, int]:
        """Columns and rows. Half-blocks take all the room there is: a cell is two of their pixels."""
        room = shutil.get_terminal_size()
        width, height = image.width / self.cell[0], image.height / self.cell[1]
        columns = min(room.columns - 1, _MOST_COLUMNS)
        scale = min(columns / width, max(room.lines * share, 2) / height)
        if self.graphics != "blocks":
            scale = min(scale, 1.0)
        return max(1, round(width * scale)), max(1, round(height * scale))


def find_screen() -> Screen | None:
    """Ask the terminal on stdout for its graphics; None if there is none, or its cursor cannot move."""
    if not is_screen():
        return None
    try:
        answer = _ask()
    except (ImportError, OSError):  # Windows; no controlling terminal; in the background
        return Screen(graphics="blocks")
    attributes = _ANSWERED.search(answer)
    graphics: Graphics = "blocks"
    # First what works everywhere it is announced: some claim kitty's protocol and lack its placeholders.
    if attributes and b"4" in attributes[1].split(b";"):
        graphics = "sixel"
    elif b"\x1b_Gi=31;OK" in answer:
        graphics = "kitty"
    cell = re.search(rb"\x1b\[6;(\d+);(\d+)t", answer)
    size = (int(cell[2]), int(cell[1])) if cell else (0, 0)
    return Screen(graphics=graphics, cell=size if all(size) else _USUAL_CELL)


def _ask() -> bytes:
    """Return the terminal's answers to our questions; raise OSError if it cannot be asked now."""
    import termios
    import tty

    terminal = os.open(os.ttyname(sys.stdout.fileno()), os.O_RDWR | os.O_NOCTTY)
    try:
        if os.tcgetpgrp(terminal) != os.getpgrp():
            raise OSError("in the background, where reading stops a process")
        before = termios.tcgetattr(terminal)
        tty.setcbreak(terminal, termios.TCSANOW)
        try:
            questions = _KITTY + _CELL_SIZE + _ATTRIBUTES + _CLEAR_LINE
            os.write(terminal, questions.encode())
            return _read_until_answered(terminal)
        finally:
            termios.tcsetattr(terminal, termios.TCSANOW, before)
    except termios.error as error:
        raise OSError(str(error)) from error
    finally:
        os.close(terminal)


def _read_until_answered(terminal: int) -> bytes:
    answer, deadline = b"", time.monotonic() + _PATIENCE_S
    while not _ANSWERED.search(answer):
        left = deadline - time.monotonic()
        if left <= 0 or not select([terminal], [], [], left)[0]:
            break
        answer += os.read(terminal, 1024)
    return answer


def _renderable(graphics: Graphics, cell: tuple[int, int]) -> Any:
    """Return the library's class for one way of drawing, given what it would otherwise ask the terminal."""
    with _library_asks_nothing():
        from textual_image import _terminal
        from textual_image.renderable import HalfcellImage, SixelImage, TGPImage

    vars(_terminal.get_cell_size)["_result"] = _terminal.CellSize(*cell)
    return {"sixel": SixelImage, "kitty": TGPImage, "blocks": HalfcellImage}[graphics]


@contextmanager
def _library_asks_nothing() -> Iterator[None]:
    """While it is imported, textual-image finds no terminal."""
    before = sys.__stdout__
    vars(sys)["__stdout__"] = None
    try:
        yield
    finally:
        vars(sys)["__stdout__"] = before
