"""Lines of a picture: where they are, and what is told without OpenCV."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sana_cli.config.choices import ControlType
from sana_cli.images.control_lines import hed_size, lines_of

WITHOUT_OPENCV = """
import sys
sys.modules["cv2"] = None
from PIL import Image
from sana_cli.config.choices import ControlType
from sana_cli.errors import SanaError
from sana_cli.images.control_lines import lines_of
picture = Image.new("RGB", (8, 8))
assert lines_of(picture, ControlType.NONE) is picture
try:
    lines_of(picture, ControlType.CANNY)
except SanaError as error:
    print(error.code, error.message, error.hint)
"""


@pytest.mark.parametrize("kind", [ControlType.CANNY, ControlType.LINEART])
def test_an_outline_is_white_on_black(kind: ControlType) -> None:
    picture = Image.new("RGB", (96, 64), "white")
    ImageDraw.Draw(picture).rectangle((24, 16, 71, 47), fill="navy")
    found = lines_of(picture, kind)
    assert (found.size, found.mode) == ((96, 64), "RGB")
    grey = np.asarray(found.convert("L")) > 127
    rows, columns = np.nonzero(grey)
    assert abs(rows.min() - 16) <= 4
    assert abs(columns.max() - 71) <= 4
    assert 100 < grey.sum() < 1200, "lines, not areas"
    assert not grey[:8].any()


def test_without_opencv() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_OPENCV], capture_output=True, text=True, check=True
    )
    assert "need OpenCV" in done.stdout
    assert "opencv-python-headless" in done.stdout


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1024, 1024), (512, 512)), ((1024, 768), (704, 512)), ((200, 4096), (128, 2048)),
     ((32, 32), (512, 512)), ((4096, 4096), (512, 512)), ((32, 4096), (64, 2048))],
)  # fmt: skip
def test_the_size_is_bounded(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert hed_size(*size) == expected
