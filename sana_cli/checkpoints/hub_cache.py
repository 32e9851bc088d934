"""List and remove models in the hub's cache without huggingface_hub, whose import takes 0.2 s.

The cache is shared with other programs: `models--OWNER--NAME/{blobs,refs,snapshots}`. Models share
files by hard links, so sizes count a file once, and removing a model frees only files that no other
model holds.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quant.files import read_small_text
from sana_cli.checkpoints.file_selection import missing_files, select_files
from sana_cli.checkpoints.fitness import is_sana
from sana_cli.checkpoints.hub_environment import require_environment
from sana_cli.checkpoints.hub_files import RepoFolder, is_repo_id
from sana_cli.errors import ExitCode, SanaError

_PREFIX = "models--"
_REMOVED = ".sana-removed-"  # a model on its way out; no reader looks there


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedRepo:
    """A repo that has a folder in the cache."""

    repo_id: str
    folder: Path
    snapshot: Path | None  # the files of its main branch, as far as they are here
    complete: bool  # by names: all files that we read are there

    @property
    def size_bytes(self) -> int:
        """On disk, broken downloads included."""
        return disk_bytes([self.folder])


def root() -> Path:
    """Return the folder of the hub's cache, which may not exist."""
    require_environment()
    from huggingface_hub import constants  # 6 ms; anything more of the package costs 0.2 s

    return Path(constants.HF_HUB_CACHE)


def repo_folder(repo_id: str) -> RepoFolder:
    """A repo's folder, whether it exists or not."""
    return RepoFolder(root() / (_PREFIX + repo_id.replace("/", "--")))


def find(repo_id: str, *, weight_variant: str | None = None) -> CachedRepo | None:
    """Describe a repo's folder in the cache; None if there is none."""
    if not is_repo_id(repo_id):
        return None
    folder = repo_folder(repo_id).path
    if not folder.is_dir():
        return None
    snapshot = _main_snapshot(folder)
    complete = False
    if snapshot is not None:
        names = [
            path.relative_to(snapshot).as_posix()
            for path in snapshot.rglob("*")
            if path.is_file()  # follows the link: one that leads nowhere is no file
        ]
        selected = select_files(names, weight_variant=weight_variant)
        complete = not missing_files(selected)
    return CachedRepo(repo_id=repo_id, folder=folder, snapshot=snapshot, complete=complete)


def _main_snapshot(folder: Path) -> Path | None:
    repo = RepoFolder(folder)
    commit = repo.commit("main")
    if commit is None or not repo.snapshot(commit).is_dir():
        return None
    return repo.snapshot(commit)


def sana_repos() -> Iterator[str]:
    """Repos in the cache that hold a Sana pipeline, whoever put them there."""
    for folder in sorted(root().glob(f"{_PREFIX}*--*")):
        snapshot = _main_snapshot(folder)
        if snapshot is None:
            continue
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            index = json.loads(read_small_text(snapshot / "model_index.json", 2**20))
            if is_sana(index):
                yield folder.name.removeprefix(_PREFIX).replace("--", "/", 1)


def disk_bytes(folders: Iterable[Path]) -> int:
    """Bytes of all files below, each counted once however many names it has."""
    sizes = {}
    for folder in folders:
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):  # removed in this moment
                status = path.lstat()
                if path.is_file() and not path.is_symlink():
                    sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def freed_bytes(folder: Path) -> int:
    """Bytes that removing a folder gives back: files that have no name elsewhere."""
    if folder.is_symlink():
        return 0
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(status.st_size for path in paths if (status := path.lstat()).st_nlink == 1)


def remove_repo(repo: CachedRepo) -> int:
    """Remove a repo from the cache, unless somebody downloads it right now; returns the bytes freed."""
    from filelock import FileLock, Timeout

    with contextlib.ExitStack() as held:
        for path in _locks(repo.folder):
            try:
                held.enter_context(FileLock(path, timeout=0))
            except Timeout as error:
                raise SanaError(
                    f"{repo.repo_id} is being downloaded by another process",
                    hint="wait for it, or stop it",
                    code=ExitCode.ENVIRONMENT,
                ) from error
            except OSError as error:
                raise _cannot_remove(path, error) from error
        freed = remove_folder(repo.folder)
    remove_idle_locks(repo.folder)
    with contextlib.suppress(OSError):
        _lock_folder(repo.folder).rmdir()
    return freed


def remove_idle_locks(folder: Path) -> None:
    """Remove the empty files that locks of a repo left, but for those that somebody holds."""
    from filelock import FileLock, Timeout

    for path in _locks(folder):
        with contextlib.suppress(OSError, Timeout), FileLock(path, timeout=0):
            path.unlink(missing_ok=True)


def _lock_folder(folder: Path) -> Path:
    return folder.parent / ".locks" / folder.name


def _locks(folder: Path) -> list[Path]:
    """Lock files of a repo; none where links would lead to other files."""
    locks = _lock_folder(folder)
    if locks.is_symlink() or locks.parent.is_symlink():
        return []
    return [path for path in locks.glob("*.lock") if not path.is_symlink()]


def remove_folder(folder: Path) -> int:
    """Remove a folder so that nobody meets half of it; return the bytes freed.

    If the path is a link, only the link is removed, and its target stays.
    """
    try:
        if folder.is_symlink():
            folder.unlink()
            return 0
        freed = freed_bytes(folder)
        leaving = folder.with_name(f"{_REMOVED}{folder.name}-{os.getpid()}")
        folder.rename(leaving)
        for path in folder.parent.glob(f"{_REMOVED}*"):  # an earlier removal that was killed, too
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
    except OSError as error:
        raise _cannot_remove(folder, error) from error
    return freed


def _cannot_remove(path: Path, error: OSError) -> SanaError:
    return SanaError(
        f"cannot remove {error.filename or path}: {error.strerror or error}",
        hint="who owns it, and is its disk writable?",
        code=ExitCode.ENVIRONMENT,
    )


def existing_parent(folder: Path) -> Path:
    """The folder itself, or the first one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder
