"""Text as people read it: counts, sizes, columns, and names of files. No torch."""

import re
from collections.abc import Sequence
from math import ceil
from unicodedata import category

from sana_cli.text import one_line

_SELECTOR = re.compile(
    "[\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)  # how an emoji looks: no part of a word


def slug(prompt: str, *, limit: int = 48) -> str:
    """A file name's worth of a prompt: letters, their marks and digits of any script, joined by hyphens."""
    kept = ""
    for character in prompt.lower():
        if character.isalnum() or (_is_mark(character) and kept[-1:] not in ("", "-")):
            kept += character
        elif not kept.endswith("-"):
            kept += "-"
    # Names are limited in bytes; a character of some scripts takes three.
    whole = kept.strip("-")
    cut = whole.encode()[:limit].decode(errors="ignore")
    if _is_mark(whole[len(cut) : len(cut) + 1]):  # a letter loses none of its marks
        while _is_mark(cut[-1:]):
            cut = cut[:-1]
        cut = cut[:-1]
    return cut.rstrip("-") or "picture"


def _is_mark(character: str) -> bool:
    """Whether it belongs to the letter before: accents typed apart, vowels of Hindi and Thai."""
    return category(character or " ") in ("Mn", "Mc") and not _SELECTOR.match(character)


def counted(number: int, noun: str) -> str:
    """A number and what it counts: "1 step", "2 steps"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def with_article(noun: str) -> str:
    """ "a cat", "an owl"; plurals as they are."""
    if noun.endswith("s") and not noun.endswith(("ss", "us")):
        return noun
    return f"an {noun}" if noun[:1] in tuple("aeio") or noun == "umbrella" else f"a {noun}"


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
    shown = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
