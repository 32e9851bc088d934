"""Find, download and verify the files of a checkpoint on the Hugging Face hub.

Everything lands in huggingface_hub's ordinary cache, shared with other programs. A model that is there is found without
importing huggingface_hub, which takes 0.2 s.
"""

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sana_cli.checkpoints import hub_cache
from sana_cli.checkpoints.file_selection import missing_files
from sana_cli.checkpoints.hub_answer import BadAnswer, Listing
from sana_cli.checkpoints.hub_environment import blame, cache_variable, require_environment
from sana_cli.checkpoints.hub_files import RemoteFile, is_sound
from sana_cli.checkpoints.hub_snapshot import (
    MAIN,
    HubRequest,
    HubSnapshot,
    find_snapshot,
    require_indexed_files,
    require_repo,
)
from sana_cli.config.components import COMPONENTS
from sana_cli.errors import ExitCode, SanaError, checkpoint_error

Progress = Callable[[str, int, int], None]  # file, bytes done, bytes in total

Piece = tuple[str, int, int]  # a file, its first byte that is wanted, and how many

_AT_ONCE = 4  # requests


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedFile:
    """A file that a model needs: its size, and how much of it is here. Bytes."""

    name: str
    size: int
    here: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The files that a download would bring. `licence` is what the repo declares, or empty."""

    repo_id: str
    revision: str
    licence: str
    files: tuple[OfferedFile, ...]
    cache: Path
    damaged: tuple[str, ...] = ()  # here, but with a wrong digest: they would be fetched again

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
    renew: Collection[str] = (),
    progress: Progress | None = None,
) -> HubSnapshot:
    """Return the files of a repo, from the cache if all are there, else downloaded.

    A complete cache is used without asking the hub; `refresh` asks it for a newer commit. Files in
    `renew` are fetched even if they exist. `progress` is called once for each large file before the
    first byte, so the sum of its totals is known at once, and then as bytes arrive.
    """
    request = HubRequest(
        repo_id=repo_id,
        revision=revision,
        weight_variant=weight_variant,
        components=components,
    )
    require_repo(repo_id)
    offline = offline or is_offline()
    if offline or not refresh:
        snapshot = find_snapshot(request, offline=offline)
        if snapshot is not None:
            return snapshot
    with _at_the_hub(request):
        return _download(request, renew, progress or (lambda *_: None))


def cached(
    repo_id: str, *, weight_variant: str | None = None, components: Sequence[str] = COMPONENTS
) -> HubSnapshot | None:
    """Return the result of `fetch` without asking the hub; None if `fetch` would have to ask."""
    require_repo(repo_id)
    request = HubRequest(repo_id=repo_id, weight_variant=weight_variant, components=components)
    return find_snapshot(request, offline=False)


def pieces(repo_id: str, revision: str | None, wanted: Sequence[Piece]) -> list[bytes]:
    """Pieces of a repo's files, each shorter than asked for only where the file ends; nothing is kept."""
    with _at_the_hub(HubRequest(repo_id=repo_id, revision=revision)):
        from sana_cli.checkpoints.hub_download import read_piece

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = pool.map(lambda piece: read_piece(repo_id, revision or MAIN, *piece), wanted)
            return list(found)


def is_refusal(error: SanaError) -> bool:
    """Return whether the error means that the hub is unreachable or refuses; not that its files are unfit."""
    from huggingface_hub.errors import HTTPError

    cause: BaseException | None = error.__cause__
    while cause is not None and not isinstance(cause, HTTPError | BadAnswer):
        cause = cause.__cause__
    return cause is not None


def ask(
    repo_id: str,
    *,
    weight_variant: str | None = None,
    components: Sequence[str] = COMPONENTS,
    revision: str | None = None,
    verify: bool = False,
) -> Offer:
    """List what `fetch` would download now; raise SanaError also when the disk has no room for it.

    With `verify`, existing files are read and compared with their digests. Nothing is changed in
    any case.
    """
    request = HubRequest(
        repo_id=repo_id, revision=revision, weight_variant=weight_variant, components=components
    )
    require_repo(repo_id)
    with _at_the_hub(request):
        from sana_cli.checkpoints.hub_download import list_repo

        listing = list_repo(repo_id, revision)
        selected = _selected(request, listing)
        damaged = [
            file
            for file in selected
            if verify and request.folder.is_here(listing.commit, file)
            and not is_sound(request.folder.snapshot(listing.commit) / file.name, file)
        ]  # fmt: skip
        again = {file.name for file in damaged}
        here = _fitting_the_disk(request, listing.commit, selected, again)
        return Offer(
            repo_id=repo_id,
            revision=listing.commit,
            licence=listing.licence,
            files=tuple(
                OfferedFile(name=file.name, size=file.size, here=here[file.name])
                for file in selected
            ),
            cache=hub_cache.root(),
            damaged=tuple(file.name for file in damaged),
        )


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids the network."""
    require_environment()
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


@contextlib.contextmanager
def _at_the_hub(request: HubRequest) -> Iterator[None]:
    """Within the block a hub is asked: what its answers, the network and the disk bring are SanaErrors."""
    if is_offline():
        raise SanaError(
            "HF_HUB_OFFLINE is set, and a download needs the network",
            hint="unset HF_HUB_OFFLINE",
            code=ExitCode.ENVIRONMENT,
        )
    require_environment(network=True)
    try:
        from sana_cli.checkpoints.hub_download import quiet_hub
        from sana_cli.checkpoints.hub_errors import readable_errors
    except ValueError as error:  # tqdm, for one, reads numbers from variables
        raise blame(error) from error

    with readable_errors(request.repo_id, request.revision, hub_cache.root()), quiet_hub():
        yield


# --- downloading ---


def _selected(request: HubRequest, listing: Listing) -> list[RemoteFile]:
    """The files of a repo that we read; SanaError if it is no repo in our layout."""
    selected = request.select(list(listing.announced))
    if lacking := missing_files(selected, components=request.components):
        raise checkpoint_error(
            f"{request.repo_id} has no {lacking[0]}",
            hint="sana reads repos in the diffusers layout with safetensors weights;"
            " published ones end in _diffusers",
        )
    return listing.take(selected)


def _download(request: HubRequest, renew: Collection[str], progress: Progress) -> HubSnapshot:
    from sana_cli.checkpoints.hub_download import list_repo, receive

    listing = list_repo(request.repo_id, request.revision)
    folder, commit = request.folder, listing.commit
    selected = _selected(request, listing)
    wanted = [file for file in selected if file.name in renew or not folder.is_here(commit, file)]
    here = _fitting_the_disk(request, commit, wanted, renew)
    for file in wanted:
        if file.is_large:
            progress(file.name, here[file.name], file.size)
    for file in wanted:
        receive(request.repo_id, folder, commit, file, progress)
    folder.note_listing(commit, listing.files)
    folder.note_commit(request.revision or MAIN, commit)
    hub_cache.remove_idle_locks(folder.path)
    snapshot = folder.snapshot(commit)
    require_indexed_files(request, snapshot, [file.name for file in selected])
    return HubSnapshot(path=snapshot, revision=commit)


def _bytes_here(request: HubRequest, commit: str, file: RemoteFile) -> int:
    """Count the bytes of a file that need no download."""
    from sana_cli.checkpoints.hub_download import bytes_in, find_twin

    folder = request.folder
    if folder.is_here(commit, file) or bytes_in(folder.blob(file.digest)) == file.size:
        return file.size
    if find_twin(folder, file):
        return file.size
    return min(bytes_in(folder.incomplete(file.digest)), file.size)


def _fitting_the_disk(
    request: HubRequest, commit: str, files: Sequence[RemoteFile], renew: Collection[str]
) -> dict[str, int]:
    """Count the bytes of each file that need no download, none of those in `renew`; SanaError if the rest has no room."""
    here = {
        file.name: 0 if file.name in renew else _bytes_here(request, commit, file) for file in files
    }
    _check_disk(request, sum(file.size - here[file.name] for file in files))
    return here


def _check_disk(request: HubRequest, needed: int) -> None:
    folder = hub_cache.existing_parent(request.folder.path)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SanaError(
            f"{request.repo_id} needs {needed:,} bytes more in {folder}, where {free:,} are free",
            hint=f"make room, or set {cache_variable()} to a folder on a larger disk",
            code=ExitCode.ENVIRONMENT,
        )
