"""The models that requests may name: those that are here, or those that `--models` lists. Nothing is downloaded.

A name is looked up in a list. What a request says is never used as a path.
"""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.hub_cache import disk_bytes
from sana_cli.checkpoints.installed import listed_models
from sana_cli.checkpoints.opening import open_checkpoint, open_if_here
from sana_cli.config.generation import BUILTIN
from sana_cli.config.variants import find_variant
from sana_cli.errors import ExitCode, SanaError, checkpoint_error, require
from sana_cli.files import local_path
from sana_cli.text import did_you_mean

_LIST_SECONDS = 2.0  # for which a list of what is on disk holds
_HERE = ("built in", "downloaded", "quantized")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model that may be named."""

    name: str
    size_bytes: int
    native_size: int | None
    steps: int | None
    created: int  # seconds since 1970, of its files


def split_names(models: str | None) -> tuple[str, ...]:
    """Split `--models A,B`; blanks around a name are none of it. SanaError (usage) for a list with an empty name."""
    if models is None:
        return ()
    names = tuple(name.strip() for name in models.split(","))
    require(
        all(names),
        f"--models {models!r} has an empty name",
        "separate names by one comma: --models A,B",
    )
    return names


class NoSuchModel(SanaError):
    """A request names a model that this server does not serve."""


class ServedModels:
    """Finds and opens models for requests. For any thread."""

    def __init__(
        self, names: tuple[str, ...], *, default: str | None, offline: bool = True
    ) -> None:
        """`names`: all that may be used, opened now; (): all that are here. SanaError for one that cannot be opened."""
        self._lock = threading.Lock()
        self._opened: dict[str, tuple[object, Checkpoint]] = {}
        self._chosen = {name: open_checkpoint(name, offline=offline) for name in names}
        self._listed: tuple[float, list[Served]] = (0.0, [])
        self.default = names[0] if names else default or BUILTIN
        if not names and self.default != BUILTIN:
            self._chosen[self.default] = open_checkpoint(self.default, offline=offline)
        self._only_chosen = bool(names)
        # The user's own commands name a folder by its whole path, whatever folder they run in.
        self._at = {
            str(local_path(name).resolve()): name
            for name in self._chosen
            if name != BUILTIN and local_path(name).is_dir()
        }

    def names(self) -> list[Served]:
        """Every model that may be named, the default one first."""
        with self._lock:
            until, listed = self._listed
            if time.monotonic() > until:
                listed = self._list()
                self._listed = time.monotonic() + _LIST_SECONDS, listed
            return listed

    def _list(self) -> list[Served]:
        found = {name: _served(name, checkpoint) for name, checkpoint in self._chosen.items()}
        if not self._only_chosen:
            for model in listed_models():
                if model.state in _HERE and not model.problem and model.name not in found:
                    found[model.name] = Served(
                        name=model.name, size_bytes=model.size_bytes,
                        native_size=model.native_size, steps=model.steps,
                        created=_written(model.folder),
                    )  # fmt: skip
        first = [found.pop(self.default)] if self.default in found else []
        return [*first, *found.values()]

    def open(self, name: str | None) -> Checkpoint:
        """The model of a request; None: the default one. SanaError where it is not served, or its files are unusable."""
        asked = name or self.default
        asked = self._at.get(asked, asked)
        with self._lock:
            if (
                opened := self._still_opened(asked)
            ) is not None:  # no look at the disk's other models
                return opened
        known = [served.name for served in self.names()]
        variant = find_variant(asked)
        if asked not in known and variant is not None and variant.alias in known:
            asked = variant.alias
        if asked not in known:
            raise NoSuchModel(
                f"this server has no model {asked[:80]!r}{did_you_mean(asked, known)}",
                hint=f"it has: {', '.join(known)}",
                code=ExitCode.USAGE,
            )
        with self._lock:
            if (opened := self._still_opened(asked)) is not None:
                return opened
            checkpoint = self._open(asked)
            self._opened[asked] = (_state(checkpoint), checkpoint)
            return checkpoint

    def _still_opened(self, name: str) -> Checkpoint | None:
        """A model that was opened before, if its files are as they were."""
        before = self._opened.get(name)
        return before[1] if before is not None and before[0] == _state(before[1]) else None

    def _open(self, name: str) -> Checkpoint:
        if name in self._chosen:
            return open_checkpoint(name, offline=True)
        checkpoint = open_if_here(name)
        if checkpoint is None:
            raise checkpoint_error(f"the files of {name} are not all here")
        return checkpoint


def _served(name: str, checkpoint: Checkpoint) -> Served:
    return Served(
        name=name, size_bytes=disk_bytes([checkpoint.folder]),
        native_size=checkpoint.defaults.native_size, steps=checkpoint.defaults.steps,
        created=_written(checkpoint.folder),
    )  # fmt: skip


def _written(folder: Path | None) -> int:
    try:
        return int(folder.stat().st_mtime) if folder else 0
    except OSError:
        return 0


def _state(checkpoint: Checkpoint) -> object:
    """List what changes when a model's files do."""
    roots = [checkpoint.folder, *([checkpoint.pth] if checkpoint.pth else [])]
    files = [f for root in roots for f in (root.rglob("*") if root.is_dir() else [root])]
    found = []
    for file in sorted(files):
        try:
            about = file.stat()
        except OSError:
            continue
        found.append((str(file), about.st_mtime_ns, about.st_size))
    return found
