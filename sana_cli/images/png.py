"""Write and read PNG files that carry their settings. No torch."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sana_cli.errors import usage_error
from sana_cli.files import new_file
from sana_cli.images.foreign_settings import ForeignSettings, foreign_settings_of
from sana_cli.images.png_chunks import read_texts
from sana_cli.images.reading import OURS, opened

SETTINGS_KEY = "sana"  # the PNG chunk with everything, as JSON
SHEET_KEY = "pictures"  # of a contact sheet's settings: what is on it, by file
PREVIEW_KEY = "sana-preview"  # the PNG chunk of a picture that is not finished
XMP_KEY = "XML:com.adobe.xmp"  # the PNG chunk that holds an XMP packet
# Keywords that others have taken: `prompt` is ComfyUI's, which reads JSON from it before it looks at `parameters`.
_KEYWORDS = {"prompt": "Description"}  # PNG's own for what a picture shows
# IPTC's words for a picture that a trained model made, and for one that it changed; agencies and platforms label
# pictures by them.
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
DIGITAL_SOURCE_TYPE = f"{_SOURCE_TYPES}trainedAlgorithmicMedia"
EDITED_SOURCE_TYPE = f"{_SOURCE_TYPES}compositeWithTrainedAlgorithmicMedia"
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
   <Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


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
    info.add_itxt("parameters", _parameters_chunk(first or settings))
    for key, value in settings.items():
        keyword = _KEYWORDS.get(key, key)
        info.add_itxt(keyword, value if isinstance(value, str) else json.dumps(value))
    info.add_itxt(SETTINGS_KEY, _json(settings))
    edited = "image" in settings  # it began with another one
    source_type = EDITED_SOURCE_TYPE if edited else DIGITAL_SOURCE_TYPE
    info.add_itxt(XMP_KEY, _XMP.format(source_type=source_type))
    image.save(file, format="PNG", pnginfo=info)


def _json(settings: Mapping[str, Any]) -> str:
    """Readable where it can be; names of files on a sheet that are not UTF-8 are kept whole as escapes."""
    text = json.dumps(dict(settings), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(dict(settings))
    return text


def save_preview(image: Image.Image, path: Path, *, step: int, steps: int) -> None:
    """Write what a picture looks like so far, in place of an earlier preview. Errors as in `files.new_file`."""
    info = PngInfo()
    info.add_itxt(PREVIEW_KEY, f"step {step} of {steps}")
    info.add_itxt(XMP_KEY, _XMP.format(source_type=DIGITAL_SOURCE_TYPE))
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


def load_picture(path: Path, formats: Sequence[str] = OURS) -> Image.Image:
    """Read a whole picture from a file; raise SanaError if there is none."""
    with opened(path, formats) as image:
        return image.copy()


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings that `save_png` stored in a picture; raise SanaError if there are none or
    it is damaged.
    """
    with opened(path) as image:
        found = read_texts(path, SETTINGS_KEY, PREVIEW_KEY)
        foreign = foreign_settings_of(path, image) if not found else None
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
            f"`sana info {path}` shows a command that draws something like it",
        )
    raise usage_error(
        f"{path} carries no settings of sana",
        "other programs remove them when they save a picture again",
    )


def read_foreign_settings(path: Path) -> ForeignSettings | None:
    """Read another program's settings from a picture; None if it has none or is ours. Raises SanaError."""
    with opened(path) as image:
        ours = read_texts(path, SETTINGS_KEY, PREVIEW_KEY)
        return None if ours else foreign_settings_of(path, image)


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


def _parameters_chunk(settings: Mapping[str, Any]) -> str:
    """The de-facto standard text of other tools: prompt, negative prompt, then `key: value` pairs on the last line."""
    lines = [_paragraph(str(settings.get("prompt", "")))]
    if settings.get("negative_prompt"):
        lines.append(f"Negative prompt: {_paragraph(str(settings['negative_prompt']))}")
    named = {
        "Steps": "steps", "Sampler": "scheduler", "CFG scale": "guidance", "Seed": "seed",
        "Size": "size", "Model": "model", "Version": "version",
    }  # fmt: skip
    pairs = [f"{title}: {_value(settings[key])}" for title, key in named.items() if key in settings]
    return "\n".join([*lines, ", ".join(pairs)])


def _value(value: object) -> str:
    """Format a value as AUTOMATIC1111's web UI does, so that programs that read its texts read ours."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n\r"]', text) else text


def _paragraph(text: str) -> str:
    """A prompt with the lines that it has, unless one of them would be read as something else."""
    lines = text.splitlines()
    forged = any(re.match(r"\s*(Negative prompt|Steps):", line) for line in lines)
    return " ".join(lines) if forged else text
