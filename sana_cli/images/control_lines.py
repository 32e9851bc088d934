"""Lines of a picture, white on black, as a ControlNet that was trained on drawings reads them. No torch.

Both finders are OpenCV's: Canny's edges, and an adaptive threshold that gives what a pen would draw.
"""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sana_cli.config.choices import ControlType
from sana_cli.errors import ExitCode, SanaError
from sana_cli.system.packages import pip_install

if TYPE_CHECKING:
    from types import ModuleType

_CANNY = (100, 200)  # thresholds of the gradient, as most demos of ControlNet have them
_NEIGHBOURS, _DARKER = (
    9,
    5,
)  # pixels around one, and levels of 255 by which a line is darker than they


def lines_of(picture: Image.Image, kind: ControlType) -> Image.Image:
    """Find the lines of an RGB picture; RGB, the same size. `none`: the picture holds lines already.

    SanaError (environment) where OpenCV is not installed.
    """
    if kind is ControlType.NONE:
        return picture
    cv2 = _opencv()
    grey = cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2GRAY)
    if kind is ControlType.CANNY:
        lines = cv2.Canny(grey, *_CANNY)
    else:
        smooth = cv2.GaussianBlur(grey, (5, 5), 0)
        lines = cv2.adaptiveThreshold(
            smooth, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, _NEIGHBOURS, _DARKER
        )
    return Image.fromarray(lines).convert("RGB")


def _opencv() -> "ModuleType":
    try:
        import cv2
    except ImportError as error:
        raise SanaError(
            "--control-type canny and lineart need OpenCV, which is not installed here",
            hint=f"{pip_install('opencv-python-headless')}; --control-type none takes a drawing as it is",
            code=ExitCode.ENVIRONMENT,
        ) from error
    return cv2
