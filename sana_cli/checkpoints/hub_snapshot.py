"""A model in huggingface_hub's cache: found, judged complete, and verified, without asking the hub."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from quant.files import read_small
from sana_cli.checkpoints import hub_cache
from sana_cli.checkpoints.file_selection import DECODER, missing_files, select_files
from sana_cli.checkpoints.hub_files import RemoteFile, RepoFolder, is_repo_id, is_sound, unsafe_name
from sana_cli.checkpoints.obtaining import pull_name
from sana_cli.config.components import COMPONENTS
from sana_cli.errors import ExitCode, SanaError, checkpoint_error

MAIN = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSnapshot:
    """A checkpoint folder in the cache, complete for the components that were asked for."""

    path: Path
    revision: str  # commit hash


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRequest:
    """The part of a repo that a model needs: at which revision, in which storage of its weights, and which components."""

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
class Verdict:
    """The result of comparing the files of a cached model with those that the hub announced."""

    revision: str
    sound: list[RemoteFile] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)  # `keep_on` said no


def require_repo(repo_id: str) -> None:
    """SanaError (usage) for what no hub takes as a repo's name, before a path is made of it."""
    if not is_repo_id(repo_id):
        from sana_cli.checkpoints.hub_errors import no_repo

        raise no_repo(repo_id)


def find_snapshot(request: HubRequest, *, offline: bool) -> HubSnapshot | None:
    """Find a model whose files are all there, with their sizes; None where the hub has to be asked.

    With `offline`, SanaError says what is missing instead.
    """
    folder = request.folder
    commit = folder.commit(request.revision or MAIN)
    first = "config.json" if tuple(request.components) == (DECODER,) else "model_index.json"
    if commit is None or not (folder.snapshot(commit) / first).is_file():
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
            raise checkpoint_error(
                f"{name} of {request.repo_id} is damaged in the local cache", hint=_pull(request)
            )
    require_indexed_files(request, snapshot, selected)
    return HubSnapshot(path=snapshot, revision=commit)


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
    request = HubRequest(repo_id=repo_id, weight_variant=weight_variant)
    folder = request.folder
    commit = folder.commit(MAIN)
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


def require_indexed_files(request: HubRequest, folder: Path, selected: Sequence[str]) -> None:
    """Names alone chose the shards; each index has the last word."""
    for name in selected:
        if ".index." not in name:
            continue
        try:
            weight_map = json.loads(read_small(folder / name))["weight_map"]
            needed = {f"{Path(name).parent.as_posix()}/{shard}" for shard in weight_map.values()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise checkpoint_error(
                f"{name} of {request.repo_id} is not a safetensors index",
                hint="the repo itself is broken; choose another revision or model",
            ) from error
        if lost := sorted(needed - set(selected)):
            raise checkpoint_error(
                f"{request.repo_id} lacks {lost[0]}, which {name} asks for",
                hint="the repo itself is broken; choose another revision or model",
            )


def _names_in(snapshot: Path) -> list[str]:
    files = (path for path in snapshot.rglob("*") if path.is_file())
    return [path.relative_to(snapshot).as_posix() for path in files]


def _not_cached(request: HubRequest, what: str) -> NoReturn:
    raise SanaError(
        f"{request.repo_id} {what}, and nothing may be downloaded",
        hint=_pull(request),
        code=ExitCode.ENVIRONMENT,
    )


def _pull(request: HubRequest) -> str:
    """Say how the files get here, whatever forbids the download: some commands never download."""
    from sana_cli.checkpoints.hub import is_offline

    how = ", with HF_HUB_OFFLINE unset," if is_offline() else ""
    return f"`sana pull {pull_name(request.repo_id)}`{how} downloads what is missing"
