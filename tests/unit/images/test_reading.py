"""Picture files of all kinds: what is read, what is refused and with which remedy, and what is said to be left out."""

import ast
import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sana_cli.errors import SanaError
from sana_cli.images import reading
from sana_cli.images.picture_file import load_picture, read_settings
from sana_cli.images.png import save_png
from sana_cli.images.png_chunks import SIGNATURE
from sana_cli.images.reading import PHOTOS, opened
from sana_cli.request import init_image
from sana_cli.request.init_image import examine, read_image, read_mask

RAMP = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
GREY = Image.fromarray(RAMP)
SETTINGS = {"prompt": "a fox", "seed": 1}
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"

# what reads a picture, wherever it comes from
READERS: dict[str, Callable[[Path], Any]] = {
    "examine": examine,
    "read_image": read_image,
    "read_mask": read_mask,
    "load_picture": load_picture,
    "read_settings": read_settings,
    "shown": lambda path: load_picture(path, PHOTOS),
}


def chunk(kind: bytes, data: bytes, *, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png_with(path: Path, *extra: bytes, image: Image.Image = GREY, last: bool = False) -> Path:
    """A PNG with more chunks, before its pixels or after them."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    data = file.getvalue()
    place = data.rindex(b"IEND") - 4 if last else data.index(b"IDAT") - 4
    path.write_bytes(data[:place] + b"".join(extra) + data[place:])
    return path


# -- formats ---------------------------------------------------------------------------------------


def test_no_other_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def start(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript is started")

    Image.init()
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    path = tmp_path / "a.png"
    path.write_bytes(POSTSCRIPT)
    for read in READERS.values():
        with pytest.raises(SanaError, match=r"PostScript") as caught:
            read(path)
        assert "PNG or JPEG" in caught.value.hint


def test_every_opening_names_its_formats() -> None:
    """In the whole tree: Pillow would try all that it knows."""
    root, found = Path(__file__).parents[3], 0
    for folder in ("sana_cli", "quant", "calibration", "benchmarks", "training"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text if "Image.open" in text else "")):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open"):
                    found += 1
                    assert "formats" in {word.arg for word in node.keywords}, (
                        f"{path}: {node.lineno}"
                    )
    assert found, "the name has changed"


WRITTEN = {
    "png": {}, "jpg": {"quality": 100}, "webp": {"lossless": True}, "bmp": {}, "gif": {}, "tif": {}, "ppm": {},
}  # fmt: skip


@pytest.mark.parametrize("suffix", WRITTEN)
def test_formats_of_photos(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    GREY.convert("RGB").save(path, **WRITTEN[suffix])
    assert np.abs(np.asarray(read_image(path))[..., 0].astype(int) - RAMP).max() <= 4
    named_wrongly = path.rename(tmp_path / "b.dat")
    assert examine(named_wrongly).width == 8


OTHERS = {
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC", "convert"),
    "avif that is cut": (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "AVIF", "convert"),
    "jxl": (b"\xff\x0a" + bytes(30), "JPEG XL", "convert"),
    "jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000", "convert"),
    "psd": (b"8BPS\0\1", "Photoshop", "convert"),
    "pdf": (b"%PDF-1.7\n", "PDF", "convert"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="x">', "SVG", "convert"),
    "exr": (b"v/1\x01\2\0\0\0", "high dynamic range", "convert"),
    "mp4": (b"\0\0\0\x20ftypisom", "film", "one picture"),
    "html": (b"\n<!DOCTYPE html><html>", "web page", "download the picture"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs", "git lfs pull"),
    "zip": (b"PK\x03\x04" + bytes(20), "archive", "unpack"),
    "empty": (b"", "empty", "again"),
    "text": (b"no picture", "no known format", "PNG, JPEG or WebP"),
    "cut jpeg": (b"\xff\xd8\xff\xe0\0", "damaged", "again"),
    "cut webp": (b"RIFF\0\0\0\0WEBPVP8 ", "cannot read", "again"),
    "cut png": (SIGNATURE, "damaged", "again"),
    "cut": (SIGNATURE + b"\0\0\0\rIHDR", "cannot read", "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_picture_gets_its_own_remedy(tmp_path: Path, kind: str, reader: str) -> None:
    content, what, remedy = OTHERS[kind]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(SanaError, match=what) as caught:
        READERS[reader](path)
    assert remedy in caught.value.hint


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file(tmp_path: Path, reader: str) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    for name, what in (
        ("fifo.png", "not a regular file"),
        ("folder.png", "is a folder"),
        ("missing.png", "no such picture"),
    ):
        with pytest.raises(SanaError, match=what):
            READERS[reader](tmp_path / name)


# -- metadata --------------------------------------------------------------------------------------

LARGE_TEXT = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(3 * 2**20)))
METADATA = {
    "large text": LARGE_TEXT,
    "many texts": b"".join([LARGE_TEXT] * 30),
    "bomb in our settings": chunk(b"zTXt", b"sana\0\0" + zlib.compress(bytes(2**26))),
    "text of no zlib": chunk(b"zTXt", b"sana\0\0nothing"),
    "text of an unknown method": chunk(b"iTXt", b"sana\0\1\7\0\0text"),
    "text that is cut": chunk(b"iTXt", b"sana\0\1"),
    "text without a keyword": chunk(b"tEXt", b""),
    "text of no UTF-8": chunk(b"iTXt", b"sana\0\0\0\0\0\xff\xfe"),
    "wrong checksum": chunk(b"tEXt", b"sana\0{}", crc=1),
    "broken profile": chunk(b"iCCP", b"x\0\0nothing"),
    "profile of another method": chunk(b"iCCP", b"x\0\7nothing"),
    "profile that is none": chunk(b"iCCP", b"x\0\0" + zlib.compress(b"nothing")),
    "broken EXIF": chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
    "EXIF that is none": chunk(b"eXIf", b"\0"),
    "short gamma": chunk(b"gAMA", b"\0"),
    "short resolution": chunk(b"pHYs", b"\0"),
    "short animation": chunk(b"acTL", b"\0"),
    "unknown chunk": chunk(b"fooB", b"bar"),
}


@pytest.mark.parametrize("last", [False, True], ids=["before pixels", "after pixels"])
@pytest.mark.parametrize("kind", METADATA)
def test_metadata_do_not_decide_about_pixels(tmp_path: Path, kind: str, last: bool) -> None:
    path = png_with(tmp_path / "a.png", METADATA[kind], last=last)
    assert np.array_equal(np.asarray(read_image(path))[..., 0], RAMP)
    assert load_picture(path).size == (examine(path).width, examine(path).height) == (8, 8)
    with pytest.raises(SanaError, match=r"carries no settings|settings in .* cannot be read"):
        read_settings(path)


@pytest.mark.parametrize("kind", METADATA)
def test_settings_are_read_beside_odd_metadata(tmp_path: Path, kind: str) -> None:
    """Ours come last, where a picture has them twice."""
    save_png(GREY, tmp_path / "a.png", settings=SETTINGS)
    data = (tmp_path / "a.png").read_bytes()
    place = data.index(b"IHDR") + 21
    (tmp_path / "a.png").write_bytes(data[:place] + METADATA[kind] + data[place:])
    assert read_settings(tmp_path / "a.png") == SETTINGS


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0" + bytes(40), b"x" * 60]
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["jpg", "webp", "png"])
def test_odd_exif(tmp_path: Path, suffix: str, exif: bytes) -> None:
    path = tmp_path / f"a.{suffix}"
    GREY.convert("RGB").save(path, exif=exif, quality=100)
    assert np.abs(np.asarray(read_image(path))[..., 0].astype(int) - RAMP).max() <= 8


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "webp", "png", "tif"])
def test_every_way_to_hold_a_camera(tmp_path: Path, suffix: str, turn: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / f"a.{suffix}"
    picture = Image.linear_gradient("L").resize((24, 16)).convert("RGB")
    picture.save(path, exif=exif)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert read_image(path).tobytes() == expected.tobytes()
    assert read_image(path).size == (examine(path).width, examine(path).height)


# -- sizes -----------------------------------------------------------------------------------------


def bomb(path: Path, side: int) -> Path:
    """A PNG that says that it is large, and holds nothing."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("reader", READERS)
def test_bombs_are_refused_by_their_headers(tmp_path: Path, reader: str) -> None:
    with pytest.raises(SanaError, match="too large: more than 178 million pixels"):
        READERS[reader](bomb(tmp_path / "a.png", 20000))


def test_room_is_asked_for_before_pixels(tmp_path: Path) -> None:
    path = bomb(tmp_path / "a.png", 10000)
    with pytest.raises(SanaError, match=r"10000x10000: reading it takes 1.49 GiB") as caught:
        examine(path, 10**9)
    assert caught.value.code == 3
    whole = png_with(tmp_path / "b.png")
    assert examine(whole, 8 * 8 * 16).width == 8
    with pytest.raises(SanaError, match="there is room for"):  # known by then
        examine(whole, 8 * 8 * 16 - 1)


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "P", "CMYK"])
def test_reading_takes_no_more_than_planned(tmp_path: Path, mode: str) -> None:
    """Pillow's own memory is not traced; its pictures are counted as they are made."""
    side, made = 256, []
    image = Image.new("RGBA" if mode == "P" else mode, (side, side))
    image.convert(mode).save(tmp_path / "a.tif")
    before = Image.Image._new

    def count(self: Image.Image, im: Any) -> Image.Image:
        made.append(im.size)
        return before(self, im)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "_new", count)
        read_image(tmp_path / "a.tif")
    assert len(made) * 4 <= reading.BYTES_PER_PIXEL


# -- damage ----------------------------------------------------------------------------------------


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A file with some of its bytes changed, more often near its beginning, or cut."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 2, 8])):
        place = chance.randrange(chance.choice([len(changed), min(len(changed), 200)]))
        changed[place : place + chance.choice([0, 1, 4])] = chance.choice(
            [b"", b"\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", chance.randbytes(2)]
        )
    return bytes(changed[: chance.choice([len(changed), chance.randrange(1, len(changed))])])


@pytest.mark.parametrize("kind", [*WRITTEN, "frames.tif", "frames.gif", "deflated.tif", "ours"])
def test_damaged_files_end_in_one_line(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(kind)
    noise = Image.effect_noise((24, 24), 50).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    original = tmp_path / f"a.{kind.split('.')[-1]}"
    if kind == "ours":
        save_png(noise, original, settings=SETTINGS)
    elif kind == "deflated.tif":
        noise.save(original, compression="tiff_deflate", exif=exif)
    elif kind.startswith("frames"):
        noise.save(original, save_all=True, append_images=[noise, noise])
    else:
        noise.save(original, exif=exif)
    data, path = original.read_bytes(), tmp_path / "b.png"
    for _ in range(60):
        path.write_bytes(damaged(data, chance))
        init_image._examined.clear()
        for read in READERS.values():
            try:
                read(path)
            except SanaError as error:
                assert len(error.message.splitlines()) == 1  # noqa: PT017 both ways are right
    assert capfd.readouterr().err == ""


def test_frames_are_counted_after_pixels_are_read(tmp_path: Path) -> None:
    """Counting ends at a broken frame, and leaves the picture there."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = tmp_path / "a.tif"
    frames[0].save(path, save_all=True, append_images=frames[1:], compression="tiff_deflate")
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    assert examine(path).width == 8
    assert read_image(path).getpixel((0, 0)) == (255, 0, 0)


# -- what is left out ------------------------------------------------------------------------------


def told(path: Path) -> list[str]:
    return examine(path).oddities.of_picture()


def test_depth(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert told(tmp_path / "a.png") == ["16 bits a channel, become 8"]
    rows = b"".join(b"\0" + bytes(8 * 6) for _ in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "b.png").write_bytes(SIGNATURE + data)
    assert told(tmp_path / "b.png") == ["16 bits a channel, become 8"]


def tiff_of(path: Path, values: Any, *, sample_format: int) -> Path:
    """A TIFF of 32 bits a pixel, in numbers without a sign (1), with one (2), or fractions (3)."""
    height, width = values.shape
    tags = [
        (256, 3, width), (257, 3, height), (258, 3, 32), (259, 3, 1), (262, 3, 1), (273, 4, 8),
        (277, 3, 1), (278, 3, height), (279, 4, values.nbytes), (339, 3, sample_format),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, 8 + values.nbytes) + values.tobytes() + directory
    )
    return path


@pytest.mark.parametrize(
    ("dtype", "sample_format", "white"),
    [(np.uint32, 1, 2**32 - 1), (np.int32, 2, 2**31 - 1), (np.uint32, 1, 65535), (np.int32, 2, 65535)],
)  # fmt: skip
def test_32_bits(tmp_path: Path, dtype: Any, sample_format: int, white: int) -> None:
    values = (RAMP.astype(np.float64) / 252 * white).astype(dtype)
    path = tiff_of(tmp_path / "a.tif", values, sample_format=sample_format)
    assert told(path) == [f"32 bits a channel, of which {white} is white, become 8"]
    expected = RAMP.astype(float) * 255 / 252
    assert np.abs(np.asarray(read_image(path))[..., 0] - expected).max() <= 1.5


def test_one_notice_a_file(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (8, 8), (0, 0, 0, n)) for n in (1, 2)]
    path = tmp_path / "a.png"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    asked = init_image.init_image_of(path, strength=0.5, mask=None, steps=4, scheduler="flow-dpm")
    assert asked is not None
    assert init_image.notices(asked, 8, 8) == [
        "a.png: only the first of 2 pictures is used; transparent parts become white"
    ]


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "La", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16"]
)  # fmt: skip
def test_all_modes_are_read(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tif"
    try:
        Image.new(mode, (8, 8)).save(path)
    except (OSError, KeyError, ValueError):
        pytest.skip("Pillow does not write it")
    assert (read_image(path).mode, read_mask(path).mode) == ("RGB", "L")


def test_a_mode_that_cannot_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Image.Image, mode: str) -> None:
        raise ValueError("conversion not supported")

    path = png_with(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(SanaError, match="L pixels, which cannot be made RGB"):
        read_image(path)


def test_opened_closes_its_file(tmp_path: Path) -> None:
    path = png_with(tmp_path / "a.png")
    with opened(path) as image:
        pass
    with pytest.raises(ValueError, match="closed"):
        image.load()
