"""Open picture files: accepted formats and sizes, and what an unreadable file is. No torch.

Pillow tries all its decoders on every file, whatever its name, and one of them starts Ghostscript.
So formats are named wherever a picture is opened, and sizes are checked before pixels are decoded.
"""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from quant.files import open_regular
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.images import png_chunks
from sana_cli.text import readable_memory

OURS = ("PNG", "JPEG", "WEBP")  # what we save
PHOTOS = (
    "PNG",
    "JPEG",
    "WEBP",
    "AVIF",
    "BMP",
    "GIF",
    "TIFF",
    "PPM",
)  # what --image and --mask take
BYTES_PER_PIXEL = 16  # at most, while a picture is read, turned upright and converted
_CONVERT = "convert it to PNG or JPEG, and use that"
# Beginnings of files that people take for pictures of a known format: what they are, and the remedy.
_OTHERS = (
    (rb"$", "is empty", "copy or download it again"),
    (rb"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", "is a HEIC picture", _CONVERT),
    (rb"....ftypavi[fs]", "is an AVIF picture", _CONVERT),
    (rb"....ftypcrx|FUJIFILMCCD-RAW|IIRO|IIU\0", "is a camera's raw file", _CONVERT),
    (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", "is a film", "save one picture of it as PNG or JPEG"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "is a JPEG XL picture", _CONVERT),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "is a JPEG 2000 picture", _CONVERT),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "is a PostScript (EPS) file", _CONVERT),
    (rb"%PDF", "is a PDF document", _CONVERT),
    (rb"8BPS", "is a Photoshop document", _CONVERT),
    (rb"gimp xcf", "is a GIMP document", _CONVERT),
    (rb"v/1\x01|#\?R(ADI|GBE)", "is a picture of high dynamic range", _CONVERT),
    (rb"qoif", "is a QOI picture", _CONVERT),
    (rb"DDS ", "is a DDS texture", _CONVERT),
    (rb"\x00\x00\x01\x00|icns", "is an icon file", _CONVERT),
    (rb"version https://git-lfs", "is a pointer of git-lfs, not the picture", "fetch it: git lfs pull"),
    (rb"\s*<(!doctype html|html)", "is a web page", "download the picture itself"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype )?svg", "is an SVG drawing", _CONVERT),
    (rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf", "is an archive", "unpack it, and use a picture of it"),
)  # fmt: skip
# How files begin that are read: what cannot be read of these is damaged.
_KNOWN = re.compile(rb"\x89PNG\r\n|\xff\xd8\xff|RIFF....WEBP|GIF8|II\*\0|MM\0\*", re.DOTALL)
_AGAIN = "it is damaged or not whole: copy or download it again"


@contextmanager
def opened(
    path: Path, formats: Sequence[str] = PHOTOS, *, room: int | None = None
) -> Iterator[Image.Image]:
    """Open a picture of one of these formats, with its pixels in memory.

    Raises SanaError (usage) for any other file, or one that would take more than `room` bytes to
    read. Other content (texts, profiles, their checksums) is ignored.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large or odd files that can be read all the same
        try:
            file: BinaryIO = open_regular(path)
        except OSError as error:
            raise _unopened(path, error) from error
        with file:
            image = _decoded(path, file, formats, room)
            try:
                yield image
            finally:
                image.close()


def _decoded(path: Path, file: BinaryIO, formats: Sequence[str], room: int | None) -> Image.Image:
    try:
        return _loaded(path, file, formats, room)
    except (SanaError, MemoryError):
        raise
    except Exception as error:  # any kind: decoders raise what they like for damaged files
        bare = png_chunks.pixels_only(path)
        if bare is None:
            raise _unreadable(path, error) from error
    try:
        return _loaded(path, bare, ("PNG",), room)
    except (SanaError, MemoryError):
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def _loaded(path: Path, file: BinaryIO, formats: Sequence[str], room: int | None) -> Image.Image:
    try:
        image = Image.open(file, formats=tuple(formats))
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise usage_error(
            f"{path} is too large: more than {most} million pixels", "make it smaller first"
        ) from error
    require_room(path, image.width, image.height, room)
    with _without_words_of_libtiff() if image.format == "TIFF" else nullcontext():
        image.load()
    return image


@contextmanager
def _without_words_of_libtiff() -> Iterator[None]:
    """Silence libtiff, which writes to the process's stderr; Pillow's error says what matters."""
    try:
        before = os.dup(2)
    except OSError:  # closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


def require_room(path: Path, width: int, height: int, room: int | None) -> None:
    """SanaError where reading a picture of this size, in pixels, would take more than `room` bytes."""
    needed = BYTES_PER_PIXEL * width * height
    if room is not None and needed > room:
        raise SanaError(
            f"{path} is {width}x{height}: reading it takes {readable_memory(needed)}, "
            f"and there is room for {readable_memory(room)}",
            hint="make it smaller first",
            code=ExitCode.ENVIRONMENT,
        )


def _instead_of(path: Path) -> str:
    """Say what to do about a picture that is not there, by how its name looks."""
    text = str(path)
    if re.match(r"https?:/", text):
        return "pictures are read from files: download it first"
    if text == "-":
        return "pictures are not read from standard input: name a file"
    before, colon, _ = text.rpartition(":")
    if colon and os.path.isfile(before):
        return f"write {before}; --control takes a scale, too: {before}:0.8"
    return "check the path"


def _unopened(path: Path, error: OSError) -> SanaError:
    if isinstance(error, FileNotFoundError):
        return usage_error(f"no such picture: {path}", _instead_of(path))
    if isinstance(error, IsADirectoryError):
        return usage_error(f"{path} is a folder", "name a picture: PNG, JPEG, WebP, ...")
    return usage_error(
        f"cannot read {path}: {error.strerror or error}", "name a picture that can be read"
    )


def _unreadable(path: Path, error: Exception) -> SanaError:
    """Explain why a file cannot be read, judged by its first bytes."""
    with suppress(OSError), open_regular(path) as file:
        head = file.read(1024)
        for pattern, what, remedy in _OTHERS:
            if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
                return usage_error(f"cannot read {path} as a picture: it {what}", remedy)
        if _KNOWN.match(head) and isinstance(error, UnidentifiedImageError):
            return usage_error(f"cannot read {path} as a picture: its beginning is damaged", _AGAIN)
    if isinstance(error, UnidentifiedImageError):
        return usage_error(
            f"cannot read {path} as a picture: no known format", "use a PNG, JPEG or WebP file"
        )
    reason = (str(error).splitlines() or ["it is damaged"])[0]
    return usage_error(f"cannot read {path} as a picture: {reason}", _AGAIN)
