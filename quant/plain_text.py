"""Text that people and their programs wrote: which bytes it is, and where its lines end. Standard library only.

`str.splitlines` also splits at U+2028, U+0085, form feeds and others, which stand within a line of JSON or a prompt.
"""

import re

# The longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_LINE_END = re.compile(r"\r\n|\n|\r")


def decode_text(data: bytes) -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 as programs on Windows save it; ValueError says what else it is."""
    mark, encoding = next(
        # A mark of UTF-16 alone is as likely to be two bytes of something else.
        (
            (mark, encoding)
            for mark, encoding in _MARKS
            if data.startswith(mark) and (data != mark or encoding == "utf-8")
        ),
        (b"", _without_mark(data)),
    )
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not {encoding[:6].upper().rstrip('-')} text") from error
    if "\0" in text:
        raise ValueError("it holds NUL characters, which no text does")
    return text


def _without_mark(data: bytes) -> str:
    """UTF-16 where every other byte of Latin text is NUL, else UTF-8."""
    low, high = data[::2].count(0), data[1::2].count(0)
    mostly = len(data) * 0.4 / 2
    if len(data) % 2 == 0 and high > mostly and not low:
        return "utf-16-le"
    if len(data) % 2 == 0 and low > mostly and not high:
        return "utf-16-be"
    return "utf-8"


def split_lines(text: str) -> list[str]:
    """Lines without their ends, which are LF, CRLF or CR; no empty one after the last end."""
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]
