"""Write and read PNG files that carry their settings. No torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sana_cli.files import new_file
from sana_cli.images.parameters import parameters_text, settings_json
from sana_cli.images.png_chunks import read_texts
from sana_cli.images.xmp import xmp_of

SETTINGS_KEY = "sana"  # the PNG chunk with everything, as JSON
PREVIEW_KEY = "sana-preview"  # the PNG chunk of a picture that is not finished
XMP_KEY = "XML:com.adobe.xmp"  # the PNG chunk that holds an XMP packet
# Keywords that others have taken: `prompt` is ComfyUI's, which reads JSON from it before it looks at `parameters`.
_KEYWORDS = {"prompt": "Description"}  # PNG's own for what a picture shows


def save_png(
    image: Image.Image,
    path: Path,
    *,
    settings: Mapping[str, Any],
    first: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a PNG with its settings: a `sana` JSON chunk, one chunk a setting, and `parameters`.

    `parameters` is the text that other tools read; on a sheet it is that of the `first` picture.
    XMP says that a model made the picture. Raises the errors of `files.new_file`.
    """
    with new_file(path, overwrite=overwrite) as file:
        write_png(image, file, settings=settings, first=first)


def write_png(
    image: Image.Image,
    file: BinaryIO,
    *,
    settings: Mapping[str, Any],
    first: Mapping[str, Any] | None = None,
) -> None:
    """Write what `save_png` writes to an open file."""
    info = PngInfo()
    info.add_itxt("parameters", parameters_text(first or settings))
    for key, value in settings.items():
        keyword = _KEYWORDS.get(key, key)
        info.add_itxt(keyword, value if isinstance(value, str) else json.dumps(value))
    info.add_itxt(SETTINGS_KEY, settings_json(settings))
    info.add_itxt(XMP_KEY, xmp_of(settings))
    image.save(file, format="PNG", pnginfo=info)


def save_preview(image: Image.Image, path: Path, *, step: int, steps: int) -> None:
    """Write what a picture looks like so far, in place of an earlier preview. Errors as in `files.new_file`."""
    info = PngInfo()
    info.add_itxt(PREVIEW_KEY, f"step {step} of {steps}")
    info.add_itxt(XMP_KEY, xmp_of({}))
    with new_file(path, overwrite=True) as file:
        image.save(file, format="PNG", pnginfo=info)


def is_preview(path: Path) -> bool:
    """Return whether `save_preview` wrote a file."""
    return preview_state(path) is not None


def preview_state(path: Path) -> str | None:
    """Return the progress stored by `save_preview` ("step 3 of 20"); None for any other file."""
    try:
        return read_texts(path, PREVIEW_KEY).get(PREVIEW_KEY)
    except OSError:
        return None
