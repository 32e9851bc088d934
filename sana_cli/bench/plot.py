"""A session as a picture: one bar a contender, its stages side by side. No torch."""

import math
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from sana_cli.bench.page import COLOURS, SHOWN, label
from sana_cli.text import counted

_WIDTH, _ROW, _MARGIN, _BAR, _AXIS = 1200, 90, 40, 34, 30
_TICKS = 8  # at most
_INK, _PAPER = "#222222", "#ffffff"


def plot(document: dict[str, Any]) -> Image.Image:
    """Bars in proportion to the median seconds of a picture."""
    contenders = document["contenders"]
    image = Image.new("RGB", (_WIDTH, 2 * _MARGIN + 90 + _ROW * len(contenders) + _AXIS), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    settings = document["settings"]
    heading = (
        f"{document['model']}, {settings['width']}x{settings['height']}, {counted(settings['steps'], 'step')}: "
        "seconds a picture, with loading"
    )
    draw.text((_MARGIN, _MARGIN), heading, _INK, font)
    x = _MARGIN
    for stage in SHOWN:
        draw.rectangle((x, _MARGIN + 44, x + 18, _MARGIN + 62), COLOURS[stage])
        draw.text((x + 26, _MARGIN + 40), stage, _INK, font)
        x += 60 + int(draw.textlength(stage, font))
    longest = max(c["stages"]["total"]["median"] for c in contenders.values())
    for i, (name, contender) in enumerate(contenders.items()):
        y = _MARGIN + 90 + _ROW * i
        stages, x_end = contender["stages"], float(_MARGIN)
        draw.text((_MARGIN, y), label(name, contender), _INK, font)
        for stage in SHOWN:
            if stage in stages:
                length = (_WIDTH - 2 * _MARGIN) * stages[stage]["median"] / longest
                draw.rectangle((x_end, y + 30, x_end + length, y + 30 + _BAR), COLOURS[stage])
                x_end += length
    bottom = _MARGIN + 90 + _ROW * len(contenders)
    draw.line((_MARGIN, bottom, _WIDTH - _MARGIN, bottom), _INK)
    for seconds in _ticks(longest):
        tick = _MARGIN + (_WIDTH - 2 * _MARGIN) * seconds / longest
        draw.line((tick, bottom, tick, bottom + 6), _INK)
        draw.text((tick, bottom + 8), f"{seconds:g} s", _INK, font, anchor="ma")
    return image


def _ticks(longest: float) -> list[float]:
    """Return round numbers of seconds from 0 up to the longest bar."""
    power = 10 ** math.floor(math.log10(longest))
    sizes = (power * factor for factor in (0.1, 0.2, 0.5, 1, 2, 5))
    step = next(size for size in sizes if longest / size < _TICKS)
    return [float(f"{i * step:.6g}") for i in range(int(longest / step) + 1)]
