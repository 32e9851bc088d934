"""The control picture: what a ControlNet follows, found, checked and fitted. No torch."""

from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from pathlib import Path

from PIL import Image, ImageOps

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.hed_file import HedFile, find_hed
from sana_cli.config.choices import HED_TYPES, ControlOrder, ControlType
from sana_cli.errors import require, usage_error
from sana_cli.images.control_lines import lines_of
from sana_cli.request.init_image import PictureFile, examine, read_image, resized_notices

LARGEST_SCALE = 10  # of the residuals; larger ones are typing mistakes


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPicture:
    """A picture to follow, how its lines are found, and how strongly they act."""

    image: PictureFile
    kind: ControlType
    scale: float
    order: ControlOrder
    hed: HedFile | None = None  # that finds the lines; None: OpenCV or nobody

    @property
    def uses_opencv(self) -> bool:
        """Return whether OpenCV is loaded to find the lines."""
        return self.kind not in (ControlType.NONE, ControlType.HED)

    @property
    def thins(self) -> bool:
        """Return whether the edges of HED become strokes."""
        return self.kind is ControlType.SCRIBBLE

    def fitted(self, width: int, height: int) -> Image.Image:
        """Resize (bicubic) and crop evenly to width x height, and find the lines there; those of HED are left to do.

        As NVIDIA's demo does it (app/app_sana_controlnet_hed.py): lines are found in the size that is drawn.
        """
        picture = read_image(self.image)
        if picture.size != (width, height):
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
        return picture if self.hed is not None else lines_of(picture, self.kind)


def control_of(
    picture: Path | Image.Image | None,
    *,
    scale: float | None,
    kind: str | None,
    order: str | None,
    hed: str | None = None,
    checkpoint: Checkpoint,
    room: int | None = None,
) -> ControlPicture | None:
    """Check and read a control picture.

    Raises SanaError (usage) for a model without a ControlNet, for files and numbers that cannot work, and for pictures
    that take more than `room` bytes to read.
    """
    if picture is None:
        for option, value in (
            ("--control-scale", scale), ("--control-type", kind), ("--control-order", order),
        ):  # fmt: skip
            if value is not None:
                raise usage_error(f"{option} needs a picture to follow", "name it: --control FILE")
        return None
    if checkpoint.controlnet is None:
        raise usage_error(
            f"{checkpoint.name} has no ControlNet, which --control needs",
            "use NVIDIA's .pth file of one, or a folder with controlnet/ next to transformer/; "
            "to try it: --model builtin-control",
        )
    scale = 1.0 if scale is None else float(scale)
    require(
        isfinite(scale) and 0 <= scale <= LARGEST_SCALE,
        f"--control-scale {scale:g} is out of range",
        f"use 0 (ignores the picture) to {LARGEST_SCALE}; 1 is what it was trained for",
    )
    return ControlPicture(
        image=examine(picture, room),
        kind=ControlType(kind or ControlType.NONE),
        scale=scale,
        order=ControlOrder(order) if order else ControlOrder(checkpoint.controlnet.order),
        hed=find_hed(hed) if kind in HED_TYPES else None,
    )


def notices(control: ControlPicture, width: int, height: int) -> list[str]:
    """List notices on how the picture is followed in a drawing of this size."""
    name = control.image.path.name
    lines = resized_notices(control.image, width, height)
    if control.image.oddities.of_picture():
        lines.append(f"{name}: {'; '.join(control.image.oddities.of_picture())}")
    if control.kind is ControlType.NONE and _is_bright(control.image):
        lines.append(
            f"{name} is bright, and ControlNets expect white lines on black: --control-type lineart finds them"
        )
    if control.scale == 0:
        lines.append("--control-scale 0 ignores the picture")
    return lines


@lru_cache(maxsize=8)
def _is_bright(image: PictureFile) -> bool:
    """Return whether most of a picture is brighter than grey, as of a drawing on paper or a photograph; a batch asks once."""
    grey = read_image(image).convert("L").histogram()
    return sum(grey[128:]) > sum(grey[:128])
