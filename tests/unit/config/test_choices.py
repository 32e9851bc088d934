"""Sizes as people type them."""

import pytest

from sana_cli.config.choices import parse_pag, parse_size, size_of_aspect
from sana_cli.errors import ExitCode, SanaError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024x768", (1024, 768)),
        (" 512 X 640 ", (512, 640)),
        ("32*64", (32, 64)),
        ("512", (512, 512)),
        ("64\u00d796", (64, 96)),
    ],
)
def test_size(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x512", "ax512", "-32x32", "10x", "1e3x32", "9999999x32"])
def test_unreadable_size(text: str) -> None:
    with pytest.raises(SanaError) as caught:
        parse_size(text)
    assert caught.value.code == ExitCode.USAGE
    assert "1024x768" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "native", "size"),
    [("1:1", 1024, (1024, 1024)), ("16:9", 1024, (1376, 768)), ("9:16", 512, (384, 672))],
)
def test_aspect(text: str, native: int, size: tuple[int, int]) -> None:
    assert size_of_aspect(text, native) == size
    assert size[0] * size[1] == pytest.approx(native**2, rel=0.05)


@pytest.mark.parametrize("text", ["16", "0:1", "1:0", "100:1", "a:b"])
def test_unusable_aspect(text: str) -> None:
    with pytest.raises(SanaError):
        size_of_aspect(text, 1024)


@pytest.mark.parametrize(
    ("text", "blocks", "expected"),
    [
        ("2", 28, (2, 14)),
        ("2", 20, (2, 8)),
        ("1.5", 8, (1.5, 4)),
        ("3:0", 20, (3, 0)),
        (" .5 : 19 ", 20, (0.5, 19)),
    ],
)
def test_pag(text: str, blocks: int, expected: tuple[float, int]) -> None:
    pag = parse_pag(text, blocks)
    assert pag is not None
    assert (pag.scale, pag.layer) == expected
    assert parse_pag(str(pag), blocks) == pag


def test_no_pag() -> None:
    assert parse_pag("0", 20) is None


@pytest.mark.parametrize("text", ["", "x", "-1", "101", "2:20", "2:", "2:a", "1e3", "nan", "2:3:4"])
def test_unusable_pag(text: str) -> None:
    with pytest.raises(SanaError) as caught:
        parse_pag(text, 20)
    assert caught.value.code == ExitCode.USAGE
    assert caught.value.hint
