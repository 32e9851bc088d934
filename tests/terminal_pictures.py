"""What a terminal makes of the escape sequences that it is sent: pictures, decoded from kitty's protocol and from sixels."""

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

_KITTY = re.compile("\x1b_G([^;\x1b]*)(?:;([^\x1b]*))?\x1b\\\\")
_PLACEHOLDERS = re.compile("\x1b\\[38;2;(\\d+);(\\d+);(\\d+)m((?:\U0010eeee[^\U0010eeee\x1b]+)+)")
# of rows and columns, the first of https://sw.kovidgoyal.net/kitty/_downloads/rowcolumn-diacritics.txt
_DIACRITICS = "\u0305\u030d\u030e\u0310\u0312\u033d\u033e\u033f\u0346\u034a\u034b\u034c\u0350\u0351\u0352\u0357\u035b\u0363"
_SIXELS = re.compile("\x1bP[\\d;]*q([^\x1b]*)\x1b\\\\")
_SIXEL_COMMAND = re.compile(r'#(\d+)(?:;2;(\d+);(\d+);(\d+))?|"[\d;]*|!(\d+)([?-~])|([?-~])|([$-])')


@dataclass(frozen=True, slots=True)
class Placed:
    """A picture, and how many (columns, rows) of the terminal it is stretched over."""

    image: Image.Image
    cells: tuple[int, int]


def kitty_pictures(text: str) -> list[Placed]:
    """Those that are sent as PNG in pieces, placed virtually and drawn where placeholders stand.

    Placeholders must name the picture in their colour and count its cells in diacritics, here at most 18 each way.
    """
    files: dict[int, str] = {}
    places: dict[int, tuple[int, int]] = {}
    for keys, payload in _KITTY.findall(text):
        said = dict(pair.split("=") for pair in keys.split(","))
        if said.get("a") == "q":
            continue
        number = int(said["i"])
        if said.get("a") == "p":
            assert said["U"] == "1"
            places[number] = int(said["c"]), int(said["r"])
        else:
            assert said["f"] == "100"
            assert said["m"] == "0" or len(payload) % 4 == 0
            files[number] = files.get(number, "") + payload
    assert files.keys() == places.keys()
    drawn = list(_placeholders(text))
    placed = []
    for number, (columns, rows) in places.items():
        mine = [cells for low, cells in drawn if low == number & 0xFFFFFF]
        expected = [
            [(_DIACRITICS[row], _DIACRITICS[column]) for column in range(columns)]
            for row in range(rows)
        ]
        assert mine == expected
        image = Image.open(io.BytesIO(base64.b64decode(files[number], validate=True)))
        placed.append(Placed(image, (columns, rows)))
    return placed


def _placeholders(text: str) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Each row of them: 24 bits of the picture's number, and the diacritics of row and column."""
    for red, green, blue, cells in _PLACEHOLDERS.findall(text):
        marks = [(cell[0], cell[1]) for cell in cells.strip("\r\n").split("\U0010eeee")[1:]]
        yield int(red) << 16 | int(green) << 8 | int(blue), marks


def sixel_pictures(text: str) -> list[Image.Image]:
    """RGB; every position must be drawn."""
    return [_sixels(data) for data in _SIXELS.findall(text)]


def _sixels(data: str) -> Image.Image:
    """VT330/VT340 Programmer Reference, chapter 14: six rows at a time, a colour after the other."""
    colours: dict[int, tuple[int, int, int]] = {}
    drawn: dict[tuple[int, int], tuple[int, int, int]] = {}
    x = y = colour = read = 0
    for command in _SIXEL_COMMAND.finditer(data):
        assert command.start() == read, data[read : read + 20]
        read = command.end()
        register, red, green, blue, count, repeated, once, move = command.groups()
        if register is not None:
            colour = int(register)
            if red is not None:
                colours[colour] = tuple(round(int(c) * 2.55) for c in (red, green, blue))
        elif once or repeated:
            bits = ord(once or repeated) - ord("?")
            for _ in range(int(count or 1)):
                drawn |= {(x, y + row): colours[colour] for row in range(6) if bits >> row & 1}
                x += 1
        elif move:
            x, y = 0, y + 6 * (move == "-")
    assert read == len(data), data[read : read + 20]
    width, height = max(x for x, _ in drawn) + 1, max(y for _, y in drawn) + 1
    assert len(drawn) == width * height
    pixels = np.zeros((height, width, 3), np.uint8)
    for (x, y), value in drawn.items():
        pixels[y, x] = value
    return Image.fromarray(pixels)
