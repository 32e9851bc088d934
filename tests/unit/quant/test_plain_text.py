"""Bytes that people's programs save become text, or are refused by name; lines end where editors end them."""

import codecs

import pytest

from quant.plain_text import decode_text, split_lines

WORDS = "a café on a blue background\nan owl\n"


@pytest.mark.parametrize(
    "data",
    [
        WORDS.encode(),
        codecs.BOM_UTF8 + WORDS.encode(),
        *(mark + WORDS.encode(encoding) for mark, encoding in (
            (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
            (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
            (b"", "utf-16-le"), (b"", "utf-16-be"),
        )),
    ],
)  # fmt: skip
def test_every_encoding_of_unicode(data: bytes) -> None:
    assert decode_text(data) == WORDS


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"caf\xe9", "not UTF-8"),
        (b"a\0cat", "NUL"),
        (b"a\0cat\n", "NUL"),
        (b"\0" * 40, "NUL"),
        (b"\xff\xfea", "not UTF-16"),
        (b"\xff\xfe", "not UTF-8"),
        (b"\xff\xfe" + "\ud83d".encode("utf-16-le", "surrogatepass"), "not UTF-16"),
        (b"\xed\xa0\x80", "not UTF-8"),
        ("猫と\n犬と".encode("utf-16-le"), "not UTF-8|NUL"),
    ],
)
def test_what_is_no_text(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_text(data)


@pytest.mark.parametrize(
    "character", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\x1d", "\x1e"]
)
def test_what_ends_no_line(character: str) -> None:
    assert split_lines(f"a{character}b\n") == [f"a{character}b"]


def test_what_ends_a_line() -> None:
    assert split_lines("a\nb\r\nc\rd\n\ne") == ["a", "b", "c", "d", "", "e"]
    assert split_lines("a\n") == split_lines("a") == ["a"]
    assert split_lines("") == []
