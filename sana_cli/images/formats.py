"""Formats that pictures are saved in, by the suffixes of their names. No torch, no Pillow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

Format = Literal["PNG", "JPEG", "WEBP"]
SUFFIXES: Mapping[str, Format] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
LONGEST_SIDE: Mapping[Format, int] = {"PNG": 2**31 - 1, "JPEG": 65535, "WEBP": 16383}  # pixels
# Bytes of UTF-8. JPEG has one segment of 64 KiB for everything that EXIF says, settings of ours among it.
LONGEST_TEXT: Mapping[Format, int] = {"PNG": 2**22, "JPEG": 56_000, "WEBP": 2**22}
JPEG_QUALITY = 95
LOSSLESS = 100  # quality of WebP
NAMES = ".png, .jpg or .webp"  # for messages


def format_of(path: Path) -> Format | None:
    """Return the format that a file's name asks for; None for a name that is no picture's."""
    return SUFFIXES.get(path.suffix.lower())


def writer_options(format: Format, quality: int | None) -> dict[str, Any]:
    """Return Pillow's options of a format for a `quality` of 1 to 100; None is JPEG's 95 and lossless WebP."""
    if format == "JPEG":
        quality = JPEG_QUALITY if quality is None else quality
        # Half of the colour is lost by default, which shows at red edges.
        return {"quality": quality, "subsampling": 0 if quality >= 90 else 2, "optimize": True}
    if format == "WEBP" and quality in (None, LOSSLESS):
        return {"lossless": True}
    return {"quality": quality} if format == "WEBP" else {}


def is_lossy(format: Format, quality: int | None) -> bool:
    """Return whether the file holds other pixels than those that were drawn."""
    return format == "JPEG" or (format == "WEBP" and quality not in (None, LOSSLESS))
