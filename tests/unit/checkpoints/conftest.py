"""A model folder that a test may damage, and a hub that serves it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sana_cli.checkpoints import hub as client
from sana_cli.checkpoints.hub import Offer
from sana_cli.checkpoints.model_names import BUILTIN_FOLDER
from tests.hub_server import Hub


def _link_weights(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        os.symlink(source, target)
    else:
        shutil.copyfile(source, target)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the built-in model. Its weights are links: remove one before another file takes its place."""
    return Path(shutil.copytree(BUILTIN_FOLDER, tmp_path / "model", copy_function=_link_weights))


@pytest.fixture
def offered(folder: Path, hub: Hub) -> Iterator[Callable[[], Offer]]:
    """Serve `folder`, as it is by then, as the repository own/tiny of a hub; return what that offers. Nothing of it is here."""

    def offer() -> Offer:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        hub.repos["own/tiny"] = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in paths
        }
        return client.ask("own/tiny")

    with hub.here():
        yield offer
