"""List what is not used of a picture file; shown once, to explain colours or missing frames. No torch."""

from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageCms

from quant.files import open_regular
from sana_cli.images import png_chunks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ORIENTATION, _BITS, _SAMPLE_FORMAT = 0x0112, 258, 339  # tags of EXIF and TIFF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_USUAL_GAMMA = 0.45455
_SRGB_CICP = b"\x01\x0d\x00\x01"


@dataclass(frozen=True, slots=True)
class Oddities:
    """Features of a file that a drawn picture cannot have."""

    frames: int = 1
    transparent: bool = False  # in any of its pixels
    colours: tuple[str, ...] = ()  # what becomes of them, in words

    def of_picture(self) -> list[str]:
        """List the oddities of an initial picture, in words."""
        transparent = ["transparent parts become white"] if self.transparent else []
        return [*self._frames(), *transparent, *self.colours]

    def of_mask(self) -> list[str]:
        """List the oddities of a mask, in words."""
        return [*self._frames(), *(["transparent parts are kept"] if self.transparent else [])]

    def _frames(self) -> list[str]:
        return [f"only the first of {self.frames} pictures is used"] if self.frames > 1 else []


NONE = Oddities()


def oddities_of(image: Image.Image, path: Path) -> Oddities:
    """Find the oddities of an open picture whose pixels are loaded; its pixels are not read again."""
    colours = [*_depth(image, path), *_profile(image, path)]
    transparent = _is_transparent(image)
    return Oddities(_frames(image), transparent, tuple(colours))


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return the turn that puts a picture upright; None if it is upright or its EXIF is unreadable."""
    with suppress(Exception):  # Pillow raises what it likes for broken EXIF
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    return None


def whole_numbers(image: Image.Image) -> "NDArray[np.integer[Any]]":
    """Return the values (H, W) of an open picture with more than 8 bits: Pillow reads unsigned 32
    bits as signed.
    """
    import numpy as np

    values = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {})
    unsigned = tags.get(_BITS) == (32,) and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1
    return values.view(np.uint32) if unsigned and values.dtype == np.int32 else values


def white_of(values: "NDArray[np.integer[Any]]") -> int:
    """Return the value of white: that of 16 bits in any container, unless a value is larger."""
    import numpy as np

    return 0xFFFF if values.max(initial=0) <= 0xFFFF else int(np.iinfo(values.dtype).max)


def _frames(image: Image.Image) -> int:
    with suppress(Exception):  # counting goes to the last one, and ends anywhere if one is broken
        return int(getattr(image, "n_frames", 1))
    return 1


def _is_transparent(image: Image.Image) -> bool:
    with suppress(ValueError):
        if image.has_transparency_data:
            layer = image.convert("LA") if image.mode == "La" else image
            return layer.convert("RGBA").getchannel("A").getextrema()[0] != 255
    return False


def _depth(image: Image.Image, path: Path) -> list[str]:
    bits = 16 if image.mode.startswith("I") else 8
    tags: Any = getattr(image, "tag_v2", {})
    with suppress(Exception):
        bits = max(bits, *tags.get(_BITS, (8,)))
    if image.format == "PNG":
        with suppress(OSError), open_regular(path) as file:
            bits = max(bits, file.read(25)[24])
    if bits <= 8 or image.mode == "F":
        return []
    white = f", of which {white_of(whole_numbers(image))} is white" if bits > 16 else ""
    return [f"{bits} bits a channel{white}, become 8"]


def _profile(image: Image.Image, path: Path) -> list[str]:
    """Colours are taken for sRGB, as browsers take those of most pictures."""
    if image.mode == "CMYK":
        return ["CMYK becomes RGB without a colour profile"]
    data = image.info.get("icc_profile")
    if data:
        name = ""
        with suppress(Exception):  # of a broken profile
            profile = ImageCms.ImageCmsProfile(BytesIO(data))
            name = ImageCms.getProfileDescription(profile).strip()
        if "srgb" in name.lower():
            return []
        return [f"its colour profile{f' ({name[:60]})' if name else ''} is ignored"]
    if image.format != "PNG":
        return []
    gamma = image.info.get("gamma", _USUAL_GAMMA)
    unusual = abs(gamma - _USUAL_GAMMA) > 0.001 and "srgb" not in image.info
    return ["its colour space is ignored"] if unusual or _has_wide_colours(path) else []


def _has_wide_colours(path: Path) -> bool:
    """Return whether a PNG declares another colour space than sRGB."""
    with suppress(OSError), open_regular(path) as file:
        for chunk in png_chunks.chunks(file):
            if chunk.kind == b"cICP":
                file.seek(chunk.start)
                return file.read(4) != _SRGB_CICP
    return False
