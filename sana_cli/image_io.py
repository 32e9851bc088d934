"""PNG files that tell how they were made. No torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from quant.files import open_regular
from sana_cli.errors import ExitCode, SanaError
from sana_cli.files import new_file

SETTINGS_KEY = "sana"  # the PNG chunk with everything, as JSON
SHEET_KEY = "pictures"  # of a contact sheet's settings: what is on it, by file
PREVIEW_KEY = "sana-preview"  # the PNG chunk of a picture that is not finished
XMP_KEY = "XML:com.adobe.xmp"  # the PNG chunk that holds an XMP packet
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
    image: Image.Image, path: Path, *, settings: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Write a PNG that tells how it was made: a `sana` JSON chunk, one chunk a setting, and for a single picture the
    `parameters` chunk that other tools read. XMP says that a model made it. Errors as in `files.new_file`.
    """
    info = PngInfo()
    if SHEET_KEY not in settings:
        info.add_itxt("parameters", _parameters_chunk(settings))
    for key, value in settings.items():
        info.add_itxt(key, value if isinstance(value, str) else json.dumps(value))
    info.add_itxt(SETTINGS_KEY, json.dumps(dict(settings), ensure_ascii=False))
    edited = "image" in settings  # it began with another one
    source_type = EDITED_SOURCE_TYPE if edited else DIGITAL_SOURCE_TYPE
    info.add_itxt(XMP_KEY, _XMP.format(source_type=source_type))
    with new_file(path, overwrite=overwrite) as file:
        image.save(file, format="PNG", pnginfo=info)


def save_preview(image: Image.Image, path: Path, *, step: int, steps: int) -> None:
    """Write what a picture looks like so far, in place of an earlier preview. Errors as in `files.new_file`."""
    info = PngInfo()
    info.add_itxt(PREVIEW_KEY, f"step {step} of {steps}")
    info.add_itxt(XMP_KEY, _XMP.format(source_type=DIGITAL_SOURCE_TYPE))
    with new_file(path, overwrite=True) as file:
        image.save(file, format="PNG", pnginfo=info)


def is_preview(path: Path) -> bool:
    """Whether `save_preview` wrote a file."""
    try:
        return PREVIEW_KEY in load_picture(path).info
    except SanaError:
        return False


def load_picture(path: Path) -> Image.Image:
    """A picture from a file, all of it; SanaError where there is none."""
    try:
        with open_regular(path) as file, Image.open(file) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SanaError(
            f"cannot read {path} as a picture", hint="is it a whole PNG file?", code=ExitCode.USAGE
        ) from error
    return image


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a picture that `save_png` wrote; SanaError if there are none."""
    text = getattr(load_picture(path), "text", {}).get(SETTINGS_KEY, "")
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not settings:
        raise SanaError(
            f"{path} carries no settings of sana",
            hint="other programs remove them when they save a picture again",
            code=ExitCode.USAGE,
        )
    return settings


def _parameters_chunk(settings: Mapping[str, Any]) -> str:
    """The de-facto standard text of other tools: prompt, negative prompt, then `key: value` pairs."""
    lines = [str(settings["prompt"])]
    if settings.get("negative_prompt"):
        lines.append(f"Negative prompt: {settings['negative_prompt']}")
    named = {
        "Steps": "steps", "Sampler": "scheduler", "CFG scale": "guidance", "Seed": "seed",
        "Size": "size", "Model": "model", "Version": "version",
    }  # fmt: skip
    lines.append(", ".join(f"{title}: {settings[key]}" for title, key in named.items()))
    return "\n".join(lines)
