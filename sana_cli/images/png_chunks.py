"""The chunks of a PNG: its texts without its pixels, and its pixels without anything else. No torch, no Pillow.

Pillow refuses a whole picture for one text that is too large or one checksum that is wrong. Neither says anything about
the pixels, so they are read without; and texts are read without decoding pixels.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from quant.files import open_regular

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_COLOR_TYPE = 9  # its place in the data of IHDR
_TRANSPARENCY = {0: 2, 2: 6, 3: 1}  # bytes of tRNS at least, by colour type
_MOST_CHUNKS = 2**20  # a picture of 4096x4096 has some thousands
_LONGEST_TEXT = 4 * 2**20  # bytes, inflated
_LARGEST_FILE = 2**28  # bytes, of which a copy without texts is made


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a PNG file, named by four letters."""

    kind: bytes
    start: int  # of its data in the file
    length: int


def chunks(file: BinaryIO) -> Iterator[Chunk]:
    """Yield all chunks up to the end or damage of the file; none if it is no PNG."""
    file.seek(0)
    if file.read(len(SIGNATURE)) != SIGNATURE:
        return
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        start = file.tell()
        yield Chunk(kind, start, length)
        if kind == b"IEND":
            return
        file.seek(start + length + 4)


def read_texts(path: Path, *keywords: str) -> dict[str, str | None]:
    """Read a PNG's texts of these keywords; None for one that is damaged or too large. Raises OSError."""
    found: dict[str, str | None] = {}
    with open_regular(path) as file:
        for chunk in chunks(file):
            if chunk.kind not in _TEXTS:
                continue
            file.seek(chunk.start)
            keyword = file.read(min(chunk.length, 80)).partition(b"\0")[0].decode("latin-1")
            if keyword in keywords:
                found[keyword] = _text(file, chunk)
    return found


def pixels_only(path: Path) -> io.BytesIO | None:
    """Copy a PNG's pixels, transparency and orientation alone; None if a file is no PNG. Raises OSError."""
    with open_regular(path) as file:
        if file.seek(0, io.SEEK_END) > _LARGEST_FILE or not any(chunks(file)):
            return None
        file.seek(next(chunks(file)).start + _COLOR_TYPE)
        color_type = int.from_bytes(file.read(1))
        copy = io.BytesIO()
        copy.write(SIGNATURE)
        for chunk in chunks(file):
            if chunk.kind in _PIXELS or _is_sound(file, chunk, color_type):
                file.seek(chunk.start - 8)
                copy.write(file.read(chunk.length + 12))
    copy.seek(0)
    return copy


def _is_sound(file: BinaryIO, chunk: Chunk, color_type: int) -> bool:
    """Return whether a chunk changes how pixels look, and is whole."""
    if chunk.kind == b"tRNS" and chunk.length < _TRANSPARENCY.get(color_type, chunk.length + 1):
        return False
    return chunk.kind in (b"tRNS", b"eXIf") and _data(file, chunk) is not None


def _data(file: BinaryIO, chunk: Chunk) -> bytes | None:
    """Return a chunk's content; None if its checksum is wrong or it is too large."""
    if chunk.length > _LONGEST_TEXT:
        return None
    file.seek(chunk.start)
    data, checksum = file.read(chunk.length), file.read(4)
    return data if checksum == struct.pack(">I", zlib.crc32(chunk.kind + data)) else None


def _text(file: BinaryIO, chunk: Chunk) -> str | None:
    data = _data(file, chunk)
    if data is None:
        return None
    _, _, rest = data.partition(b"\0")
    if chunk.kind == b"tEXt":
        return rest.decode("latin-1")
    if chunk.kind == b"zTXt":
        inflated = _inflated(rest[1:])
        return None if inflated is None else inflated.decode("latin-1")
    _, _, text = (
        rest[2:].partition(b"\0")[2].partition(b"\0")
    )  # after language and translated keyword
    inflated = _inflated(text) if rest[:1] == b"\1" else text
    try:
        return None if inflated is None else inflated.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _inflated(data: bytes) -> bytes | None:
    engine = zlib.decompressobj()
    try:
        text = engine.decompress(data, _LONGEST_TEXT)
    except zlib.error:
        return None
    return None if engine.unconsumed_tail or not engine.eof else text
