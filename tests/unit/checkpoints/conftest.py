"""A model folder that a test may damage."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sana_cli.checkpoints import hub
from sana_cli.checkpoints.file_selection import select_files
from sana_cli.checkpoints.hub import Offer, OfferedFile
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


@pytest.fixture
def offered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Offer]:
    """Offer `folder`, as it is by then, as a repository of which nothing is here; pieces of it are read from the disk."""

    def pieces(repo_id: str, revision: str | None, wanted: Sequence[hub.Piece]) -> list[bytes]:
        return [(folder / name).read_bytes()[at : at + count] for name, at, count in wanted]

    def offer() -> Offer:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
        files = [OfferedFile(name=n, size=sizes[n], here=0) for n in select_files(list(sizes))]
        return Offer(
            repo_id="own/tiny", revision="c" * 40, licence="", files=tuple(files), cache=folder.parent / "cache"
        )  # fmt: skip

    monkeypatch.setattr(hub, "pieces", pieces)
    return offer
