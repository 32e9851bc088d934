"""The console script as a process: what only a real terminal, pipe or folder shows."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from sana_cli.errors import ExitCode
from sana_cli.image_io import save_png

SANA = (sys.executable, "-m", "sana_cli")


def run(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        (*SANA, *arguments), capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_words_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    settings = dict.fromkeys(("steps", "scheduler", "guidance", "size", "model", "version"), "x")
    save_png(
        Image.new("RGB", (8, 8)),
        tmp_path / "a.png",
        settings={**settings, "prompt": "猫", "seed": 1},
    )
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONPATH": os.getcwd()}
    result = run("info", "a.png", env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "prompt: \\u732b" in result.stdout


def test_working_folder_that_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    result = run(
        "generate", "a cat", env=environment, cwd=folder, preexec_fn=lambda: os.rmdir(folder)
    )
    assert result.returncode == ExitCode.ENVIRONMENT
    assert result.stderr.splitlines()[0] == "error: the working folder is gone"
