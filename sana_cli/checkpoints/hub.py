"""Find, download and verify the files of a checkpoint on the Hugging Face hub.

Everything lands in huggingface_hub's ordinary cache, shared with other programs. A model that is there is found without
importing huggingface_hub, which takes 0.2 s.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from quant.files import read_small
from sana_cli.checkpoints import hub_cache
from sana_cli.checkpoints.file_selection import COMPONENTS, missing_files, select_files
from sana_cli.checkpoints.hub_answer import BadAnswer, Listing
from sana_cli.checkpoints.hub_environment import blame, require_environment
from sana_cli.checkpoints.hub_files import RemoteFile, RepoFolder, is_repo_id, is_sound, unsafe_name
from sana_cli.errors import ExitCode, SanaError

Progress = Callable[[str, int, int], None]  # file, bytes done, bytes in total

Piece = tuple[str, int, int]  # a file, its first byte that is wanted, and how many

_AT_ONCE = 4  # requests
_MAIN = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSnapshot:
    """A checkpoint folder in the cache, complete for the components that were asked for."""

    path: Path
    revision: str  # commit hash


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    repo_id: str
    revision: str | None = None
    weight_variant: str | None = None
    components: Sequence[str] = COMPONENTS

    def select(self, paths: Sequence[str]) -> list[str]:
        return select_files(paths, weight_variant=self.weight_variant, components=self.components)

    @property
    def folder(self) -> RepoFolder:
        return hub_cache.repo_folder(self.repo_id)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of comparing the files of a cached model with those that the hub announced."""

    revision: str
    sound: list[RemoteFile] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)  # `keep_on` said no


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
    """The files of a repo that we read, from the cache if they are all there, else downloaded.

    A complete cache is used without asking the hub; `refresh` asks it for a newer commit. Files in `renew` are fetched
    even if they are there. `progress` is called once for each large file before the first byte, so the sum of its
    totals is known at once, and then as bytes arrive.
    """
    request = _Request(
        repo_id=repo_id,
        revision=revision,
        weight_variant=weight_variant,
        components=components,
    )
    _require_repo(repo_id)
    offline = offline or is_offline()
    if offline or not refresh:
        snapshot = _from_cache(request, offline=offline)
        if snapshot is not None:
            return snapshot
    with _at_the_hub(request):
        return _download(request, renew, progress or (lambda *_: None))


def cached(
    repo_id: str, *, weight_variant: str | None = None, components: Sequence[str] = COMPONENTS
) -> HubSnapshot | None:
    """Return the result of `fetch` without asking the hub; None if `fetch` would have to ask."""
    _require_repo(repo_id)
    request = _Request(repo_id=repo_id, weight_variant=weight_variant, components=components)
    return _from_cache(request, offline=False)


def pieces(repo_id: str, revision: str | None, wanted: Sequence[Piece]) -> list[bytes]:
    """Pieces of a repo's files, each shorter than asked for only where the file ends; nothing is kept."""
    with _at_the_hub(_Request(repo_id=repo_id, revision=revision)):
        from sana_cli.checkpoints.hub_download import read_piece

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = pool.map(lambda piece: read_piece(repo_id, revision or _MAIN, *piece), wanted)
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
    request = _Request(
        repo_id=repo_id, revision=revision, weight_variant=weight_variant, components=components
    )
    _require_repo(repo_id)
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
        here = {
            file.name: 0 if file in damaged else _bytes_here(request, listing.commit, file)
            for file in selected
        }
        _check_disk(request, sum(file.size - here[file.name] for file in selected))
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


def verify(
    repo_id: str,
    *,
    weight_variant: str | None = None,
    keep_on: Callable[[int], bool] = lambda size: True,
) -> Verdict | None:
    """Read a cached model and compare it with its digests, without the hub; None if it is not
    complete.

    Files that changed last come first. Each is read only if `keep_on`, called with its size in
    bytes, returns true.
    """
    request = _Request(repo_id=repo_id, weight_variant=weight_variant)
    folder = request.folder
    commit = folder.commit(_MAIN)
    if commit is None or not (known := folder.files(commit)):
        return None
    selected = request.select(list(known))
    if missing_files(selected) or unsafe_name(selected):
        return None
    snapshot = folder.snapshot(commit)
    if not all((snapshot / name).is_file() for name in selected):
        return None
    verdict = Verdict(revision=commit)
    for name in sorted(selected, key=lambda n: (snapshot / n).stat().st_mtime, reverse=True):
        if not keep_on(known[name].size):
            verdict.unchecked.append(name)
        elif is_sound(snapshot / name, known[name]):
            verdict.sound.append(known[name])
        else:
            verdict.damaged.append(name)
    return verdict


def _require_repo(repo_id: str) -> None:
    """SanaError (usage) for what no hub takes as a repo's name, before a path is made of it."""
    if not is_repo_id(repo_id):
        from sana_cli.checkpoints.hub_errors import no_repo

        raise no_repo(repo_id)


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids the network."""
    require_environment()
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


@contextlib.contextmanager
def _at_the_hub(request: _Request) -> Iterator[None]:
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


# --- the cache ---


def _from_cache(request: _Request, *, offline: bool) -> HubSnapshot | None:
    folder = request.folder
    commit = folder.commit(request.revision or _MAIN)
    if commit is None or not (folder.snapshot(commit) / "model_index.json").is_file():
        return _not_cached(request, "is not in the local cache") if offline else None
    snapshot = folder.snapshot(commit)
    known = folder.listing(commit)
    if known is None and not offline:  # another program did not note what the repo holds
        return None
    selected = request.select(list(known) if known is not None else _names_in(snapshot))
    absent = [name for name in selected if not (snapshot / name).is_file()]
    absent += missing_files(selected, components=request.components)
    if (unsafe := unsafe_name(selected)) is not None:
        absent.insert(0, unsafe)
    if absent:
        what = f"is only partly in the local cache: {absent[0]} is missing"
        return _not_cached(request, what) if offline else None
    for name in selected:
        if known is not None and not folder.is_here(commit, known[name]):
            if not offline:
                return None  # it is fetched again
            raise SanaError(
                f"{name} of {request.repo_id} is damaged in the local cache",
                hint=_again(offline),
                code=ExitCode.CHECKPOINT,
            )
    _check_indexes(request, snapshot, selected)
    return HubSnapshot(path=snapshot, revision=commit)


def _names_in(snapshot: Path) -> list[str]:
    files = (path for path in snapshot.rglob("*") if path.is_file())
    return [path.relative_to(snapshot).as_posix() for path in files]


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
            weight_map = json.loads(read_small(folder / name))["weight_map"]
            needed = {f"{Path(name).parent.as_posix()}/{shard}" for shard in weight_map.values()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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


def _selected(request: _Request, listing: Listing) -> list[RemoteFile]:
    """The files of a repo that we read; SanaError if it is no repo in our layout."""
    selected = request.select(list(listing.announced))
    if lacking := missing_files(selected, components=request.components):
        raise SanaError(
            f"{request.repo_id} has no {lacking[0]}",
            hint="sana reads repos in the diffusers layout with safetensors weights;"
            " published ones end in _diffusers",
            code=ExitCode.CHECKPOINT,
        )
    return listing.take(selected)


def _download(request: _Request, renew: Collection[str], progress: Progress) -> HubSnapshot:
    from sana_cli.checkpoints.hub_download import list_repo, receive

    listing = list_repo(request.repo_id, request.revision)
    folder, commit = request.folder, listing.commit
    selected = _selected(request, listing)
    wanted = [file for file in selected if file.name in renew or not folder.is_here(commit, file)]
    here = {
        file.name: 0 if file.name in renew else _bytes_here(request, commit, file)
        for file in wanted
    }
    _check_disk(request, sum(file.size - here[file.name] for file in wanted))
    for file in wanted:
        if file.is_large:
            progress(file.name, here[file.name], file.size)
    for file in wanted:
        receive(request.repo_id, folder, commit, file, progress)
    folder.note_listing(commit, listing.files)
    folder.note_commit(request.revision or _MAIN, commit)
    hub_cache.remove_idle_locks(folder.path)
    snapshot = folder.snapshot(commit)
    _check_indexes(request, snapshot, [file.name for file in selected])
    return HubSnapshot(path=snapshot, revision=commit)


def _bytes_here(request: _Request, commit: str, file: RemoteFile) -> int:
    """Count the bytes of a file that need no download."""
    from sana_cli.checkpoints.hub_download import bytes_in, find_twin

    folder = request.folder
    if folder.is_here(commit, file) or bytes_in(folder.blob(file.digest)) == file.size:
        return file.size
    if find_twin(folder, file):
        return file.size
    return min(bytes_in(folder.incomplete(file.digest)), file.size)


def _check_disk(request: _Request, needed: int) -> None:
    folder = hub_cache.existing_parent(request.folder.path)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SanaError(
            f"{request.repo_id} needs {needed:,} bytes more in {folder}, where {free:,} are free",
            hint="make room, or set HF_HOME to a folder on a larger disk",
            code=ExitCode.ENVIRONMENT,
        )
