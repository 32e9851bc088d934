"""How close two pictures are, and the sheet that shows it."""

import numpy as np
import pytest

from sana_cli.images.comparison_sheet import Closeness, Row, caption, most_rows, psnr_db, sheet
from sana_cli.images.contact_sheet import LARGEST, caption_lines


def flat(value: int, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def test_closeness() -> None:
    found = Closeness.of(flat(100), flat(110))
    assert (found.largest_difference, found.mean_difference) == (10, 10.0)
    assert found.psnr_db == pytest.approx(20 * np.log10(255 / 10), abs=0.01)
    assert str(found) == "PSNR 28.1 dB"
    assert Closeness.of(flat(0), flat(255)).largest_difference == 255


def test_equal_pictures_have_a_number() -> None:
    assert psnr_db(flat(3), flat(3)) == 99.0
    assert str(Closeness.of(flat(3), flat(3))) == "equal"


def test_a_row_shows_both_pictures_and_their_difference() -> None:
    row = Row(before=flat(100, 96), after=flat(104, 96), caption="")
    image = np.asarray(sheet([row], ("a", "b"), count=1, side=96))
    assert image.shape[1] == 3 * 96
    middle = image[24 + 48]
    assert [tuple(middle[x]) for x in (48, 144, 240)] == [(100,) * 3, (104,) * 3, (128 + 32,) * 3]


def test_models_and_prompts_are_written() -> None:
    row = Row(before=flat(0, 128), after=flat(0, 128), caption="a fox")
    named = np.asarray(sheet([row], ("first", "second"), count=1, side=128))
    assert (named[:24, 2 * 128 :] < 128).any(), "the third column has a title"
    assert (named[:24, :128] < 128).any()
    assert (named[24 + 128 :] < 128).any()
    other = np.asarray(sheet([row], ("fürst", "日本"), count=1, side=128))
    assert (named[:24] != other[:24]).any()


def test_pictures_of_other_shapes_keep_theirs() -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    image = np.asarray(
        sheet([Row(before=wide, after=wide, caption="")], ("", ""), count=1, side=96)
    )
    column = image[24 : 24 + 96, 48].mean(axis=-1)
    assert (column[:30] == 255).all()
    assert (column[34:62] == 0).all()


def test_the_largest_sheet() -> None:
    row = Row(before=flat(1, 512), after=flat(2, 512), caption="a fox")
    count = most_rows()
    image = sheet([row] * count, ("a", "b"), count=count, side=512)
    assert count > 30
    assert image.height <= LARGEST


def test_a_caption_says_first_what_prompts_do_not() -> None:
    close = Closeness.of(flat(1), flat(2))
    text = caption("a very long prompt " * 40, 7, close)
    assert caption_lines(text, 384, 1).startswith("seed 7, PSNR 48.1 dB: a very long")
    assert caption_lines(text, 384, 1).endswith("...")
    assert caption_lines("x" * 50, 5, 1) is not None
