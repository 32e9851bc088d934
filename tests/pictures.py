"""What tests ask of picture files and their folders."""

from pathlib import Path

import numpy as np
from PIL import Image


def pixels(path: Path) -> np.ndarray:
    """Read a picture as (H, W, 3) int."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def names(folder: Path) -> list[str]:
    """List the names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())
