"""A PNG's texts without its pixels, and its pixels without its texts."""

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sana_cli.images.png_chunks import SIGNATURE, chunks, pixels_only, read_texts
from sana_cli.images.reading import opened

LONG = "x" * 3 * 2**20


def written(path: Path, info: PngInfo) -> Path:
    Image.linear_gradient("L").save(path, pnginfo=info)
    return path


def test_texts(tmp_path: Path) -> None:
    """In each of three forms, compressed or not; those that were not asked for are not read."""
    info = PngInfo()
    info.add_text("one", "café")
    info.add_text("two", "café", zip=True)
    info.add_itxt("three", "狐", lang="de", tkey="drei", zip=True)
    info.add_itxt("four", "狐")
    info.add_text("long", LONG, zip=True)
    info.add_text("unasked", "x")
    path = written(tmp_path / "a.png", info)
    found = read_texts(path, "one", "two", "three", "four", "long", "missing")
    assert found == {"one": "café", "two": "café", "three": "狐", "four": "狐", "long": LONG}


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"zTXt", b"sana\0\0" + zlib.compress(bytes(2**23))),
        (b"zTXt", b"sana\0\0nothing"),
        (b"zTXt", b"sana\0\0" + zlib.compress(b"cut")[:-4]),
        (b"iTXt", b"sana\0\0\0\0\0\xff\xfe"),
        (b"tEXt", b"sana\0" + bytes(2**22)),
    ],
    ids=["bomb", "no zlib", "cut", "no UTF-8", "long"],
)
def test_a_text_that_cannot_be_read_is_none(tmp_path: Path, kind: bytes, data: bytes) -> None:
    info = PngInfo()
    info.add(kind, data)
    assert read_texts(written(tmp_path / "a.png", info), "sana") == {"sana": None}


def test_a_wrong_checksum_spoils_one_text(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("one", "here")
    info.add_text("two", "there")
    path = written(tmp_path / "a.png", info)
    path.write_bytes(path.read_bytes().replace(b"two\0there", b"two\0where"))
    assert read_texts(path, "one", "two") == {"one": "here", "two": None}


def test_pixels_alone(tmp_path: Path) -> None:
    """How a picture is turned stays with its pixels, unless that is damaged."""
    info = PngInfo()
    info.add_text("one", LONG, zip=True)
    info.add(b"fooB", b"bar")
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.linear_gradient("L").convert("P")
    picture.save(path, pnginfo=info, exif=exif, transparency=3)
    copy = pixels_only(path)
    assert copy is not None
    with path.open("rb") as file:
        all_kinds = {chunk.kind for chunk in chunks(file)}
    kept = {chunk.kind for chunk in chunks(copy)}
    assert kept == {b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"}
    assert all_kinds - kept == {b"zTXt", b"fooB"}
    copy.seek(0)
    assert Image.open(copy).tobytes() == picture.tobytes()
    data = path.read_bytes()
    at = data.index(b"eXIf") + 5
    path.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    damaged = pixels_only(path)
    assert damaged is not None
    assert b"eXIf" not in {chunk.kind for chunk in chunks(damaged)}


@pytest.mark.parametrize(
    ("kind", "data", "mode", "kept"),
    [
        (b"tRNS", b"", "L", False), (b"tRNS", b"\0", "L", False), (b"tRNS", b"\0\3", "L", True),
        (b"tRNS", bytes(5), "RGB", False), (b"tRNS", bytes(6), "RGB", True), (b"tRNS", bytes(6), "RGBA", False),
        (b"tRNS", b"", "P", False), (b"tRNS", b"\0", "P", True),
        (b"gAMA", b"", "L", False), (b"cHRM", b"\0", "RGB", False), (b"pHYs", b"\0", "P", False),
        (b"sRGB", b"", "L", False), (b"iCCP", b"x", "RGB", False), (b"acTL", b"x", "RGB", False),
    ],
)  # fmt: skip
def test_chunks_that_are_too_short(
    tmp_path: Path, kind: bytes, data: bytes, mode: str, kept: bool
) -> None:
    """They hold nothing that decides about the pixels; Pillow refuses the picture for them."""
    path, picture = tmp_path / "a.png", Image.linear_gradient("L").convert(mode)
    picture.save(path)
    content = path.read_bytes()
    at = content.index(b"IDAT") - 4
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    chunk = struct.pack(">I", len(data)) + kind + data + checksum
    path.write_bytes(content[:at] + chunk + content[at:])
    with opened(path) as image:
        assert image.convert(mode).tobytes() == picture.tobytes()
    copy = pixels_only(path)
    assert copy is not None
    assert (kind in {chunk.kind for chunk in chunks(copy)}) == kept


@pytest.mark.parametrize("content", [b"", b"GIF89a", SIGNATURE, SIGNATURE + b"\0\0"])
def test_what_has_no_chunks(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert list(chunks(io.BytesIO(content))) == []
    assert read_texts(tmp_path / "a.png", "sana") == {}
    assert pixels_only(tmp_path / "a.png") is None


def test_chunks_end_with_the_file_or_the_picture() -> None:
    """A length that leads far beyond the end is no reason to read on."""
    end = struct.pack(">I", 0) + b"IEND" + bytes(4)
    far = struct.pack(">I", 2**31) + b"tEXt"
    for content, kinds in ((end + end, [b"IEND"]), (far + end, [b"tEXt"])):
        found = chunks(io.BytesIO(SIGNATURE + content))
        assert [chunk.kind for chunk in found] == kinds
