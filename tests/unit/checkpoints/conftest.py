"""A model folder that a test may damage."""

import os
import shutil
from pathlib import Path

import pytest

from sana_cli.checkpoints.model_names import BUILTIN_FOLDER


def _link_weights(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        os.symlink(source, target)
    else:
        shutil.copyfile(source, target)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the built-in model. Its weights are links: remove one before another file takes its place."""
    return Path(shutil.copytree(BUILTIN_FOLDER, tmp_path / "model", copy_function=_link_weights))
