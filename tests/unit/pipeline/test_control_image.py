"""The control picture as it is encoded. Agreement of the edges: tests/parity/test_hed.py."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sana_cli.checkpoints.hed_file import find_hed
from sana_cli.config.choices import ControlOrder, ControlType
from sana_cli.pipeline.control_image import control_image
from sana_cli.request.control import ControlPicture
from sana_cli.request.init_image import examine
from tests.hed_files import write_hed


def test_the_picture_that_is_encoded(tmp_path: Path) -> None:
    """Fitted, found in the size of HED, and brought back to the size that is drawn."""
    photograph = Image.new("RGB", (200, 150), "skyblue")
    ImageDraw.Draw(photograph).ellipse((60, 30, 150, 120), fill="firebrick")
    hed = find_hed(str(write_hed(tmp_path / "hed.pth")))
    control = ControlPicture(
        image=examine(photograph), kind=ControlType.HED, scale=1.0, order=ControlOrder.TRAINED, hed=hed,
    )  # fmt: skip
    edges = control_image(control, 96, 96)
    assert (edges.size, edges.mode) == ((96, 96), "RGB")
    assert np.ptp(np.asarray(edges)) > 100
