"""Open a picture in the viewer that the desktop has for it."""

import os
import subprocess
import sys
from pathlib import Path

from sana_cli.errors import ExitCode, SanaError


def open_in_viewer(path: Path) -> None:
    """Start the viewer without waiting for it. Raises SanaError if there is none."""
    command = "open" if sys.platform == "darwin" else "xdg-open"
    try:
        if sys.platform == "win32":
            os.startfile(path)
        else:
            subprocess.Popen(
                [command, str(path.absolute())], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise SanaError(
            f"cannot open {path}: {command} is not here",
            hint="open the file yourself; /show on shows pictures in the terminal",
            code=ExitCode.ENVIRONMENT,
        ) from error
