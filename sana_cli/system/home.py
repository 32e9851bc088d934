"""Paths without the name of the user's home. No torch."""

import os
from pathlib import Path


def without_home(path: Path) -> str:
    """Return a path for a picture's settings without the user's home folder, which is private."""
    home = os.path.expanduser("~")
    text = str(path)
    return f"~{text[len(home) :]}" if text.startswith(home.rstrip(os.sep) + os.sep) else text
