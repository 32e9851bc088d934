"""Find, download and verify the files of a checkpoint on the Hugging Face hub.

Everything goes through huggingface_hub and lands in its ordinary cache, shared with other programs.
Two things are ours. Large files arrive in `blobs/<sha256>.sana.incomplete`, which outlives the
process: huggingface_hub (since 1.18) deletes what it had when a download breaks off, 5 GB of text
encoder included. And their SHA-256 is compared, which huggingface_hub leaves out.
"""

import contextlib
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Self

from huggingface_hub import (
    HfApi,
    ModelInfo,
    constants,
    get_cached_repo_tree,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # the base of the transport's errors, whichever httpx huggingface_hub builds on
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils import tqdm as hub_tqdm

from sana_cli import hub_cache
from sana_cli.errors import ExitCode, SanaError
from sana_cli.hub_errors import readable_errors
from sana_cli.weight_files import COMPONENTS, missing_files, select_files

Progress = Callable[[str, int, int], None]  # file, bytes done, bytes in total


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSnapshot:
    """A checkpoint folder in the cache, complete for the components that were asked for."""

    path: Path
    revision: str  # commit hash


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    repo_id: str
    revision: str | None
    weight_variant: str | None
    components: Sequence[str]

    def select(self, paths: Sequence[str]) -> list[str]:
        return select_files(paths, weight_variant=self.weight_variant, components=self.components)

    @property
    def folder(self) -> Path:
        name = repo_folder_name(repo_id=self.repo_id, repo_type="model")
        return hub_cache.root() / name


@dataclass(frozen=True, slots=True, kw_only=True)
class _RemoteFile:
    name: str
    size: int
    digest: str | None  # SHA-256 of a file in LFS, git's SHA-1 of any other


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedFile:
    """A file that a model needs: its size, and how much of it is here. Bytes."""

    name: str
    size: int
    here: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a download would bring. `licence` is what the repo declares, or empty."""

    repo_id: str
    revision: str
    licence: str
    files: tuple[OfferedFile, ...]
    cache: Path

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def missing_bytes(self) -> int:
        return sum(file.size - file.here for file in self.files)


def fetch(
    repo_id: str,
    *,
    revision: str | None = None,
    weight_variant: str | None = None,
    components: Sequence[str] = COMPONENTS,
    offline: bool = False,
    refresh: bool = False,
    progress: Progress | None = None,
) -> HubSnapshot:
    """The files of a repo that we read, from the cache if they are all there, else downloaded.

    A complete cache is used without asking the hub; `refresh` asks it for a newer commit.
    `progress` is called once for each large file before the first byte, so the sum of its totals is known
    at once, and then as bytes arrive.
    """
    request = _Request(
        repo_id=repo_id,
        revision=revision,
        weight_variant=weight_variant,
        components=components,
    )
    offline = offline or constants.is_offline_mode()
    cache = hub_cache.root()
    with readable_errors(repo_id, revision, cache), _quiet_hub():
        if "/" not in repo_id:  # the hub's rules still allow such old names; no Sana has one
            raise HFValidationError(repo_id)
        if offline or not refresh:
            snapshot = _from_cache(request, offline=offline)
            if snapshot is not None:
                return snapshot
        return _download(request, progress or (lambda *_: None))


def ask(repo_id: str, *, weight_variant: str | None = None) -> Offer:
    """What `fetch` would download now. SanaError, too, when the disk has no room for it."""
    request = _Request(
        repo_id=repo_id, revision=None, weight_variant=weight_variant, components=COMPONENTS
    )
    cache = hub_cache.root()
    with readable_errors(repo_id, None, cache), _quiet_hub():
        info = _model_info(request)
        selected = _selected(request, info)
        present = request.folder / "snapshots" / str(info.sha)
        missing = [file for file in selected if not _is_here(present / file.name, file)]
        _check_disk(request, missing)
        return Offer(
            repo_id=repo_id,
            revision=str(info.sha),
            licence=str(getattr(info.card_data, "license", "") or ""),
            files=tuple(
                OfferedFile(
                    name=file.name,
                    size=file.size,
                    here=_bytes_here(request, file) if file in missing else file.size,
                )
                for file in selected
            ),
            cache=cache,
        )


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep huggingface_hub's warnings (retries, missing token) out of our progress display."""
    before = hub_logging.get_verbosity()
    if before == hub_logging.WARNING:  # the default: someone who changed it wants to see more
        hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


# --- the cache ---


def _from_cache(request: _Request, *, offline: bool) -> HubSnapshot | None:
    known = try_to_load_from_cache(request.repo_id, "model_index.json", revision=request.revision)
    if not isinstance(known, str):
        return _not_cached(request, "is not in the local cache") if offline else None
    folder = Path(known).parent
    sizes = _known_sizes(request, folder)
    if sizes is None:  # another program filled the cache and did not note what the repo holds
        if not offline:
            return None
        sizes = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in folder.rglob("*")
            if path.is_file()
        }
    selected = request.select(list(sizes))
    absent = [name for name in selected if not (folder / name).is_file()]
    absent += missing_files(selected, components=request.components)
    if absent:
        what = f"is only partly in the local cache: {absent[0]} is missing"
        return _not_cached(request, what) if offline else None
    for name in selected:
        path = folder / name
        if path.stat().st_size != sizes[name]:
            _discard(path)
            raise SanaError(
                f"{name} of {request.repo_id} is damaged in the local cache and was removed",
                hint=_again(offline),
                code=ExitCode.CHECKPOINT,
            )
    _check_indexes(request, folder, selected)
    return HubSnapshot(path=folder, revision=folder.name)


def _known_sizes(request: _Request, folder: Path) -> dict[str, int] | None:
    try:
        tree = get_cached_repo_tree(request.repo_id, revision=folder.name)
    except CachedRepoTreeNotFoundError:
        return None
    return {file.path: file.size for file in tree}


def _not_cached(request: _Request, what: str) -> NoReturn:
    raise SanaError(
        f"{request.repo_id} {what}, and we are offline",
        hint=_again(offline=True),
        code=ExitCode.ENVIRONMENT,
    )


def _again(offline: bool) -> str:
    how = " online: without --offline, and without HF_HUB_OFFLINE" if offline else ""
    return f"run the command once more{how}; it downloads only what is missing"


def _check_indexes(request: _Request, folder: Path, selected: Sequence[str]) -> None:
    """Names alone chose the shards; each index has the last word."""
    for name in selected:
        if ".index." not in name:
            continue
        try:
            weight_map = json.loads((folder / name).read_text())["weight_map"]
            needed = {f"{Path(name).parent.as_posix()}/{shard}" for shard in weight_map.values()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SanaError(
                f"{name} of {request.repo_id} is not a safetensors index",
                hint="the repo itself is broken; choose another revision or model",
                code=ExitCode.CHECKPOINT,
            ) from error
        if lost := sorted(needed - set(selected)):
            raise SanaError(
                f"{request.repo_id} lacks {lost[0]}, which {name} asks for",
                hint="the repo itself is broken; choose another revision or model",
                code=ExitCode.CHECKPOINT,
            )


# --- downloading ---


def _model_info(request: _Request) -> ModelInfo:
    return HfApi().model_info(
        request.repo_id,
        revision=request.revision,
        files_metadata=True,
        timeout=constants.HF_HUB_ETAG_TIMEOUT,
    )


def _selected(request: _Request, info: ModelInfo) -> list[_RemoteFile]:
    """The files of a repo that we read; SanaError if it is no repo in our layout."""
    remote = {
        file.rfilename: _RemoteFile(
            name=file.rfilename,
            size=file.size or 0,
            digest=file.lfs.sha256 if file.lfs else file.blob_id,
        )
        for file in info.siblings or []
    }
    selected = request.select(list(remote))
    if lacking := missing_files(selected, components=request.components):
        raise SanaError(
            f"{request.repo_id} has no {lacking[0]}",
            hint="sana reads repos in the diffusers layout with safetensors weights;"
            " published ones end in _diffusers",
            code=ExitCode.CHECKPOINT,
        )
    return [remote[name] for name in selected]


def _download(request: _Request, progress: Progress) -> HubSnapshot:
    info = _model_info(request)
    selected = _selected(request, info)
    present = request.folder / "snapshots" / info.sha
    wanted = [file for file in selected if not _is_here(present / file.name, file)]
    large = [file for file in wanted if _is_sha256(file.digest)]
    _check_disk(request, wanted)
    for file in large:
        progress(file.name, _bytes_here(request, file), file.size)
    for file in large:
        _fetch_blob(request, file, info.sha, progress)
    # What is left is small; huggingface_hub links the blobs that we placed without a download.
    path = Path(
        snapshot_download(
            request.repo_id,
            revision=request.revision,
            allow_patterns=[glob.escape(file.name) for file in selected],
            tqdm_class=_NoBar,
            max_workers=4,
        )
    )
    for file in large:
        if not (path / file.name).is_symlink():  # a filesystem without links: it was copied
            (request.folder / "blobs" / str(file.digest)).unlink(missing_ok=True)
    for file in wanted:
        if file not in large and not _has_digest(path / file.name, file.digest):
            _discard(path / file.name)
            _arrived_damaged(request, file)
    _check_indexes(request, path, [file.name for file in selected])
    return HubSnapshot(path=path, revision=path.name)


def _is_here(path: Path, file: _RemoteFile) -> bool:
    if path.is_file() and path.stat().st_size != file.size:
        _discard(path)
    return path.is_file()


def _fetch_blob(request: _Request, file: _RemoteFile, commit: str, progress: Progress) -> None:
    """Put one large file into `blobs/`, going on from what an earlier run left there."""
    assert file.digest is not None
    blob = request.folder / "blobs" / file.digest
    incomplete = _incomplete(request, file)
    # The lock that huggingface_hub takes, so we also wait for other programs.
    lock = request.folder.parent / ".locks" / request.folder.name / f"{file.digest}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    blob.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if not blob.exists():
            if (twin := _twin(request, file)) and not incomplete.exists():
                _link_or_copy(twin, incomplete)
            resumed = incomplete.exists()
            _receive(request, file, commit, progress)
            good = _has_digest(incomplete, file.digest)
            if resumed and not good:  # perhaps the old part was bad: once more without it
                incomplete.unlink()
                _receive(request, file, commit, progress)
                good = _has_digest(incomplete, file.digest)
            if not good:
                incomplete.unlink()
                _arrived_damaged(request, file)
            os.replace(incomplete, blob)
    progress(file.name, file.size, file.size)


def _receive(request: _Request, file: _RemoteFile, commit: str, progress: Progress) -> None:
    url = hf_hub_url(request.repo_id, file.name, revision=commit)
    incomplete = _incomplete(request, file)
    while True:
        done = incomplete.stat().st_size if incomplete.exists() else 0
        if done > file.size:
            incomplete.unlink()
            done = 0
        elif done == file.size and done:
            return
        try:
            with incomplete.open("ab") as out:
                http_get(
                    url,
                    out,
                    resume_size=done,
                    headers=build_hf_headers(),
                    expected_size=file.size,
                    displayed_filename=file.name,
                    tqdm_class=partial(_Bar, file.name, progress),
                )
        except HTTPError as error:
            # http_get rides out timeouts and closed connections, but not resets.
            refused = isinstance(error, HfHubHTTPError)
            if refused or incomplete.stat().st_size <= done:
                raise
        else:
            return


def _incomplete(request: _Request, file: _RemoteFile) -> Path:
    return request.folder / "blobs" / f"{file.digest}.sana.incomplete"


def _twin(request: _Request, file: _RemoteFile) -> Path | None:
    """The same content under another repo: all Sana models share a text encoder and a VAE."""
    for path in request.folder.parent.glob(f"models--*/blobs/{file.digest}"):
        if path.is_file() and path.stat().st_size == file.size:
            return path.resolve()
    return None


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a filesystem without hard links
        shutil.copyfile(source, target)


def _bytes_here(request: _Request, file: _RemoteFile) -> int:
    if (request.folder / "blobs" / str(file.digest)).exists() or _twin(request, file):
        return file.size
    incomplete = _incomplete(request, file)
    return min(incomplete.stat().st_size, file.size) if incomplete.exists() else 0


def _check_disk(request: _Request, wanted: Sequence[_RemoteFile]) -> None:
    needed = sum(file.size - _bytes_here(request, file) for file in wanted)
    folder = hub_cache.existing_parent(request.folder)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SanaError(
            f"{request.repo_id} needs {needed:,} bytes more in {folder}, where {free:,} are free",
            hint="make room, or set HF_HOME to a folder on a larger disk",
            code=ExitCode.ENVIRONMENT,
        )


class _Bar:
    """What huggingface_hub takes for a progress bar: passes the byte count on."""

    def __init__(
        self, name: str, progress: Progress, *, total: int, initial: int, **_: Any
    ) -> None:
        self.name, self.progress, self.total, self.done = name, progress, total, initial

    def update(self, count: float | None = 1) -> None:
        self.done += int(count or 0)
        self.progress(self.name, self.done, self.total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _NoBar(hub_tqdm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


# --- content ---


def _is_sha256(digest: str | None) -> bool:
    return digest is not None and len(digest) == 64


def _has_digest(path: Path, digest: str | None) -> bool:
    """Whether the content fits a SHA-256 or a git SHA-1; true for any other kind of name."""
    with path.open("rb") as file:
        if _is_sha256(digest):
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
        if digest is not None and len(digest) == 40:
            header = f"blob {path.stat().st_size}\0".encode()
            return hashlib.sha1(header + file.read(), usedforsecurity=False).hexdigest() == digest
    return True


def _discard(path: Path) -> None:
    """Remove a bad file from a snapshot, and its blob, so that the next run fetches it again."""
    if path.is_symlink():
        (path.parent / os.readlink(path)).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _arrived_damaged(request: _Request, file: _RemoteFile) -> NoReturn:
    raise SanaError(
        f"{file.name} of {request.repo_id} arrived damaged: its content does not have the hub's digest",
        hint="nothing bad was kept, so run the command again; if it repeats, a proxy or mirror"
        f" on the way to {constants.ENDPOINT} alters the data",
        code=ExitCode.ENVIRONMENT,
    )
