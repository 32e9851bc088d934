"""What a drawn picture cannot have of a file is told in words, and nothing else is."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from sana_cli.images.oddities import NONE, Oddities, oddities_of, turn_of, white_of

PICTURE = Image.linear_gradient("L").resize((8, 8))


def found(path: Path) -> Oddities:
    with Image.open(path) as image:
        image.load()
        return oddities_of(image, path)


def told(path: Path) -> list[str]:
    return found(path).of_picture()


def of_mask(path: Path) -> list[str]:
    return found(path).of_mask()


def with_chunk(path: Path, kind: bytes, data: bytes) -> Path:
    info = PngInfo()
    info.add(kind, data)
    PICTURE.save(path, pnginfo=info)
    return path


def test_nothing_is_said_of_usual_pictures(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for suffix in ("png", "jpg", "webp", "tif", "bmp", "gif"):
        PICTURE.convert("RGB").save(tmp_path / f"a.{suffix}")
        assert told(tmp_path / f"a.{suffix}") == []
    PICTURE.convert("RGB").save(tmp_path / "b.jpg", icc_profile=srgb)
    PICTURE.convert("RGBA").save(tmp_path / "c.png")
    assert told(tmp_path / "b.jpg") == told(tmp_path / "c.png") == []
    gamma = with_chunk(tmp_path / "d.png", b"gAMA", struct.pack(">I", 45455))
    assert told(gamma) == []


def test_frames(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    for suffix in ("gif", "png", "webp", "tif"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert told(path) == ["only the first of 3 pictures is used"]


def test_transparency(tmp_path: Path) -> None:
    layer = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    palette = layer.convert("P")
    palette.info["transparency"] = 0
    for name, image in (("a", layer), ("b", layer.convert("LA")), ("c", Image.new("P", (8, 8)))):
        options = {"transparency": 0} if image.mode == "P" else {}
        image.save(tmp_path / f"{name}.png", **options)
        assert told(tmp_path / f"{name}.png") == ["transparent parts become white"]
        assert of_mask(tmp_path / f"{name}.png") == ["transparent parts are kept"]


def test_colours(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    PICTURE.convert("RGB").save(tmp_path / "a.jpg", icc_profile=lab)
    assert "colour profile (Lab" in told(tmp_path / "a.jpg")[0]
    PICTURE.convert("RGB").save(tmp_path / "b.jpg", icc_profile=b"nothing")
    assert told(tmp_path / "b.jpg") == ["its colour profile is ignored"]
    PICTURE.convert("CMYK").save(tmp_path / "c.jpg")
    assert told(tmp_path / "c.jpg") == ["CMYK becomes RGB without a colour profile"]
    for kind, data in ((b"gAMA", struct.pack(">I", 100000)), (b"cICP", b"\x09\x10\x00\x01")):
        path = with_chunk(tmp_path / f"{kind.decode()}.png", kind, data)
        assert told(path) == ["its colour space is ignored"]


def test_colours_that_are_srgb_in_other_words(tmp_path: Path) -> None:
    assert told(with_chunk(tmp_path / "a.png", b"cICP", b"\x01\x0d\x00\x01")) == []


def test_words() -> None:
    """A mask has no colours, and what is transparent in it is not drawn."""
    odd = Oddities(frames=2, transparent=True, colours=("CMYK",))
    frames = "only the first of 2 pictures is used"
    assert odd.of_picture() == [frames, "transparent parts become white", "CMYK"]
    assert odd.of_mask() == [frames, "transparent parts are kept"]
    assert NONE.of_picture() == NONE.of_mask() == []


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_turns(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    PICTURE.save(tmp_path / "a.png", exif=exif)
    PICTURE.save(tmp_path / "b.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    with Image.open(tmp_path / "a.png") as turned, Image.open(tmp_path / "b.png") as broken:
        assert turn_of(turned) == Image.Transpose.ROTATE_270
        assert turn_of(broken) is None
    assert turn_of(PICTURE) is None


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.array([65535], np.int32), 65535),
        (np.array([65536], np.int32), 2**31 - 1),
        (np.array([65536], np.uint32), 2**32 - 1),
        (np.array([], np.uint16), 65535),
    ],
)
def test_white(values: np.ndarray, white: int) -> None:
    assert white_of(values) == white
