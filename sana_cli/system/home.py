"""Paths without the name of the user's home. No torch."""

import os
from pathlib import Path


def without_home(path: Path) -> str:
    """A path for a picture's settings: a home folder is nobody's business."""
    home = os.path.expanduser("~")
    text = str(path)
    return f"~{text[len(home) :]}" if text.startswith(home.rstrip(os.sep) + os.sep) else text
