"""Lines of a picture, white on black, as a ControlNet that was trained on drawings reads them. No torch.

Two finders are OpenCV's: Canny's edges, and an adaptive threshold that gives what a pen would draw. Edges of the HED network
become a scribble as in NVIDIA's demo of Sana's ControlNet (app/app_sana_controlnet_hed.py).
"""

from typing import TYPE_CHECKING

from PIL import Image

from sana_cli.config.choices import ControlType
from sana_cli.errors import ExitCode, SanaError
from sana_cli.system.packages import pip_install

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray

_CANNY = (100, 200)  # thresholds of the gradient, as most demos of ControlNet have them
_NEIGHBOURS, _DARKER = (
    9,
    5,
)  # pixels around one, and levels of 255 by which a line is darker than they
_HED_SIDE = 512  # pixels of the shorter side, for which HED was trained
_HED_LONGEST = 4  # times the shorter side; beyond that the picture is smaller, which bounds memory
_HED_MULTIPLE = 64
_RIDGE, _SIGMA, _FAINTEST = (
    127,
    3.0,
    4,
)  # of a scribble: strength of 255, blur in pixels, strength once blurred


def lines_of(picture: Image.Image, kind: ControlType) -> Image.Image:
    """Find the lines of an RGB picture by OpenCV; RGB, the same size. `none`: the picture holds lines already.

    SanaError (environment) where OpenCV is not installed.
    """
    import numpy as np

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


def hed_size(width: int, height: int) -> tuple[int, int]:
    """The size in which HED sees a picture: the shorter side of 512 px, both in multiples of 64, at most 4 times as long."""
    shorter, longer = min(width, height), max(width, height)
    scale = min(_HED_SIDE / shorter, _HED_LONGEST * _HED_SIDE / longer)

    def side(pixels: int) -> int:
        return max(_HED_MULTIPLE, round(pixels * scale / _HED_MULTIPLE) * _HED_MULTIPLE)

    return side(width), side(height)


def scribbled(edges: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
    """Thin strengths of edges (H, W) to ridges, and draw those as strokes: 0 or 255. SanaError as for `lines_of`."""
    import numpy as np

    cv2 = _opencv()
    smooth = cv2.GaussianBlur(edges.astype(np.float32), (0, 0), _SIGMA)
    line = np.eye(3, dtype=np.uint8)
    flat = np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]], dtype=np.uint8)
    is_ridge = np.zeros(edges.shape, dtype=bool)  # the largest along any of four directions
    for kernel in (flat, flat.T, line, np.fliplr(line).copy()):
        is_ridge |= cv2.dilate(smooth, kernel) == smooth
    ridges = np.where(is_ridge & (smooth > _RIDGE), 255, 0).astype(np.uint8)
    strokes = cv2.GaussianBlur(ridges, (0, 0), _SIGMA)
    return np.where(strokes > _FAINTEST, 255, 0).astype(np.uint8)


def _opencv() -> "ModuleType":
    try:
        import cv2
    except ImportError as error:
        raise SanaError(
            "--control-type canny, lineart and scribble need OpenCV, which is not installed here",
            hint=f"{pip_install('opencv-python-headless')}; --control-type none takes a drawing as it is",
            code=ExitCode.ENVIRONMENT,
        ) from error
    return cv2
