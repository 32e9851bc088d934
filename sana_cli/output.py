"""Text as people read it: counts, sizes, columns, and names of files. No torch."""

import re
from collections.abc import Sequence
from math import ceil


def printable(text: str) -> str:
    """Text for a terminal: control characters, which could steer it, become spaces."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def slug(prompt: str, *, limit: int = 48) -> str:
    """A file name's worth of a prompt: letters and digits of any script, joined by hyphens."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    # Names are limited in bytes; a character of some scripts takes three.
    cut = words.encode()[:limit].decode(errors="ignore").rstrip("-")
    return cut or "picture"


def counted(number: int, noun: str) -> str:
    """A number and what it counts: "1 step", "2 steps"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def readable_bytes(count: int) -> str:
    """A size for people, in powers of ten as disks and networks are sold."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def readable_memory(count: int, *, at_least: bool = False) -> str:
    """An amount of memory for people, in powers of two; rounded up if `at_least` so much is needed."""
    unit, places = ("GiB", 2) if count >= 2**30 else ("MiB", 0)
    amount = count / {"GiB": 2**30, "MiB": 2**20}[unit]
    if at_least:
        amount = ceil(amount * 10**places) / 10**places
    return f"{amount:.{places}f} {unit}"


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        printable(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
        for row in rows
    ]
