"""Picture files of every format that we write: save and read pixels and settings. No torch.

Settings are in chunks of a PNG (`png.py`), and in the EXIF of JPEG and WebP (`exif.py`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from sana_cli.errors import SanaError, usage_error
from sana_cli.files import new_file
from sana_cli.images.exif import exif_of, settings_text
from sana_cli.images.formats import Format, format_of, is_lossy, writer_options
from sana_cli.images.png import PREVIEW_KEY, SETTINGS_KEY, write_png
from sana_cli.images.png_chunks import read_texts
from sana_cli.images.reading import OURS, opened
from sana_cli.images.xmp import xmp_of

if TYPE_CHECKING:
    from sana_cli.images.foreign_settings import ForeignSettings

_JPEG_SEGMENT = 65_533  # bytes, of which EXIF has one
SHEET_KEY = "pictures"  # of a contact sheet's settings: what is on it, by file


def save_picture(
    image: Image.Image,
    path: Path,
    *,
    settings: Mapping[str, Any],
    first: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a picture with its settings in the format of the file's name, and return what the file carries.

    Any other name is a PNG's.
    `settings["quality"]`, 1 to 100, is that of JPEG and WebP; files without loss do not carry it. `first` as for
    `save_png`. Raises the errors of `files.new_file`.
    """
    with new_file(path, overwrite=overwrite) as file:
        return write_picture(
            image, file, format_of(path) or "PNG", settings=settings, first=first, name=str(path)
        )


def write_picture(
    image: Image.Image,
    file: BinaryIO,
    format: Format,
    *,
    settings: Mapping[str, Any],
    first: Mapping[str, Any] | None = None,
    name: str = "the picture",
) -> dict[str, Any]:
    """Write what `save_picture` writes to an open file; `name` is for messages. SanaError as it raises."""
    quality = settings.get("quality")
    if not is_lossy(format, quality):
        settings = {key: value for key, value in settings.items() if key != "quality"}
    if format == "PNG":
        write_png(image, file, settings=settings, first=first)
        return dict(settings)
    exif, xmp = exif_of(settings, format, first=first), xmp_of(settings).encode()
    if format == "JPEG" and len(exif) > _JPEG_SEGMENT:
        raise usage_error(
            f"the settings of {name} have no room in a JPEG: {len(exif):,} bytes",
            f"use {Path(name).with_suffix('.png')}",
        )
    image.save(file, format=format, exif=exif, xmp=xmp, **writer_options(format, quality))
    return dict(settings)


def load_picture(path: Path, formats: Sequence[str] = OURS) -> Image.Image:
    """Read a whole picture from a file; raise SanaError if there is none."""
    with opened(path, formats) as image:
        return image.copy()


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings that `save_picture` stored in a picture; raise SanaError if there are none or
    it is damaged.
    """
    with opened(path) as image:
        found = _own_texts(path, image)
        foreign = _foreign(path, image) if not found else None
    if SETTINGS_KEY in found:
        return _settings(path, found[SETTINGS_KEY])
    if PREVIEW_KEY in found:
        raise usage_error(
            f"{path} is a preview, {found[PREVIEW_KEY]}: it carries no settings",
            "use the finished picture",
        )
    if foreign is not None:
        raise usage_error(
            f"{path} was drawn by {foreign.program}, so it carries no settings of sana",
            f"`sana generate --from {path}` draws something like it",
        )
    raise usage_error(
        f"{path} carries no settings of sana",
        "other programs remove them when they save a picture again",
    )


def settings_without_pixels(path: Path) -> dict[str, Any] | None:
    """Read the settings of one of our PNGs without decoding it; None for any other file."""
    try:
        text = read_texts(path, SETTINGS_KEY).get(SETTINGS_KEY)
        return _settings(path, text) if text else None
    except (OSError, SanaError):
        return None


def settings_of(path: Path) -> dict[str, Any] | None:
    """Read the settings of a picture of ours in any format; None for every other file, and for sheets."""
    settings = settings_without_pixels(path)
    if settings is None and format_of(path) in ("JPEG", "WEBP"):
        try:
            settings = read_settings(path)
        except SanaError:
            return None
    return settings if settings is not None and SHEET_KEY not in settings else None


def read_foreign_settings(path: Path) -> "ForeignSettings | None":
    """Read another program's settings from a picture; None if it has none or is ours. Raises SanaError."""
    with opened(path) as image:
        return None if _own_texts(path, image) else _foreign(path, image)


def _foreign(path: Path, image: Image.Image) -> "ForeignSettings | None":
    """Read the settings of another program, by modules that no picture of ours needs."""
    from sana_cli.images.foreign_readers import foreign_settings_of

    return foreign_settings_of(path, image)


def _own_texts(path: Path, image: Image.Image) -> dict[str, str | None]:
    """Read the texts that we write, by their keywords in a PNG; None for one that is damaged."""
    if image.format == "PNG":
        return read_texts(path, SETTINGS_KEY, PREVIEW_KEY)
    ours = settings_text(image)
    return {} if ours is None else {SETTINGS_KEY: ours}


def _settings(path: Path, text: str | None) -> dict[str, Any]:
    try:
        settings = json.loads(text or "")
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not settings:
        raise usage_error(
            f"the settings in {path} cannot be read: they are damaged, or too large",
            "the picture itself may be whole; give the settings yourself",
        )
    return settings
