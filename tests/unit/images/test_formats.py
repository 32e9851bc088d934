"""Formats by the names of files, and what quality means in each."""

from pathlib import Path

import pytest

from sana_cli.images.formats import format_of, is_lossy, writer_options


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", "PNG"),
        ("a.JPG", "JPEG"),
        ("a.jpeg", "JPEG"),
        ("a.b.webp", "WEBP"),
        ("a", None),
        ("webp", None),
        ("a.gif", None),
    ],
)
def test_names(name: str, expected: str | None) -> None:
    assert format_of(Path(name)) == expected


def test_quality() -> None:
    assert writer_options("WEBP", None) == writer_options("WEBP", 100) == {"lossless": True}
    assert writer_options("WEBP", 80) == {"quality": 80}
    assert writer_options("JPEG", None)["quality"] == 95
    assert writer_options("PNG", 80) == {}
    assert [
        is_lossy(f, q) for f, q in (("PNG", 5), ("JPEG", 100), ("WEBP", None), ("WEBP", 99))
    ] == [False, True, False, True]  # type: ignore[arg-type]
