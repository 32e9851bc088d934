"""Texts in EXIF: in every order of bytes, and damaged ones."""

import io

import pytest
from PIL import Image

from sana_cli.images.exif import exif_of, settings_text, tag, user_comment

TEXTS = ("a fox\nSteps: 20, Seed: 1, Size: 64x64", "狐\nSteps: 20, Sampler: 狐, Seed: 1")


def reopened(exif: bytes | Image.Exif, format: str = "JPEG") -> Image.Image:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format=format, exif=exif)
    return Image.open(file)


def with_comment(comment: bytes) -> Image.Image:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    return reopened(exif)


@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("text", TEXTS, ids=["latin", "chinese"])
def test_both_orders_of_bytes(text: str, order: str) -> None:
    assert user_comment(with_comment(b"UNICODE\0" + text.encode(order))) == text


def test_ascii_and_unnamed_encodings() -> None:
    for code in (b"ASCII\0\0\0", bytes(8)):
        assert user_comment(with_comment(code + "fox 狐".encode())) == "fox 狐"


@pytest.mark.parametrize(
    "comment", [b"", b"UNICODE\0", b"UNICODE\0a", b"OTHER\0\0\0abc", b"x" * 100], ids=repr
)
def test_comments_that_say_nothing(comment: bytes) -> None:
    assert len(user_comment(with_comment(comment))) <= 1


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_ours(format: str) -> None:
    settings = {
        "prompt": "a fox, 狐",
        "steps": 20,
        "seed": 1,
        "scheduler": "flow-dpm",
        "version": "1",
    }
    image = reopened(exif_of(settings, format), format)  # type: ignore[arg-type]
    assert (
        settings_text(image)
        == '{"prompt": "a fox, 狐", "steps": 20, "seed": 1, "scheduler": "flow-dpm", "version": "1"}'
    )
    assert user_comment(image).startswith("a fox, 狐\nSteps: 20, Sampler: flow-dpm")
    assert tag(image, 0x0131) == "sana 1"


def test_what_has_no_room_in_a_jpeg() -> None:
    """The settings fit, the same text for others in UTF-16 does not."""
    settings = {"prompt": "x" * 20_000}
    image = reopened(exif_of(settings, "JPEG"))
    assert settings_text(image) == '{"prompt": "' + "x" * 20_000 + '"}'
    assert user_comment(image) == ""
    assert user_comment(reopened(exif_of(settings, "WEBP"), "WEBP")) != ""


def test_no_exif() -> None:
    image = Image.new("RGB", (8, 8))
    assert (settings_text(image), user_comment(image), tag(image, 0x0110)) == (None, "", "")
