"""Obtain a model's files: from the cache, or from the hub after the model is judged and the
download approved.

Nothing large is fetched before its small files and headers have been judged, and a download of 100
MB or more needs an `approve` that returns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sana_cli.checkpoints.fitness import naming_pipeline
from sana_cli.checkpoints.shapes import Headers
from sana_cli.config.components import COMPONENTS
from sana_cli.config.variants import Variant, find_variant
from sana_cli.errors import ExitCode, SanaError
from sana_cli.text import readable_bytes

if TYPE_CHECKING:
    from sana_cli.checkpoints.hub import Offer, Progress

# Returns where a download may begin, raises SanaError where not. The object is what `judge` made of the model.
Approve = Callable[["Offer", object], None]

_Judged = TypeVar("_Judged")

LARGE = 100_000_000  # bytes: downloads from there on are asked about


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """The known facts of weights that are not on this machine."""

    headers: Callable[[str], Headers]  # of a component, under the names of the files
    download_bytes: int
    source: str  # of the headers, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Limits of what a command may do to open a model."""

    offline: bool = False
    progress: "Progress | None" = None
    approve: Approve | None = None  # None: nobody can be asked
    planning: bool = False  # weights stay where they are; headers are enough
    named_by: str = ""  # the file that names the model, where no person does


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A folder with a model's files; without its weights where `absent` describes them."""

    folder: Path
    revision: str | None
    absent: Absent | None = None


def obtain(
    repo_id: str,
    variant: Variant | None,
    access: Access,
    *,
    judge: Callable[[Found], object],
    components: Sequence[str] = COMPONENTS,
) -> Found:
    """Return the files of a repository, that of `variant` if it is published. Raises SanaError if
    `judge` refuses them.
    """
    from sana_cli.checkpoints import hub  # costs 0.2 s that local models need not pay

    wanted = variant.weight_variant if variant and "transformer" in components else None
    offline = access.offline or hub.is_offline()
    snapshot = hub.cached(repo_id, weight_variant=wanted, components=components)
    if snapshot is not None:
        return Found(folder=snapshot.path, revision=snapshot.revision)
    if access.named_by and variant is None:
        raise _unknown_to_us(repo_id, access.named_by)
    if offline and access.planning and variant:
        return published(variant, components, why="offline")
    if not offline:
        try:
            offer = ask(repo_id, wanted, components)
        except SanaError as error:
            if not (access.planning and variant and hub.is_refusal(error)):
                raise
            return published(variant, components, why=error.message)
        if offer.missing_bytes:
            found, judged = outlined(offer, judge, planning=access.planning)
            if access.planning:
                return found
            (access.approve or refuse_large)(offer, judged)
    snapshot = hub.fetch(
        repo_id,
        weight_variant=wanted,
        components=components,
        offline=offline,
        progress=access.progress,
    )
    return Found(folder=snapshot.path, revision=snapshot.revision)


def refuse_large(offer: "Offer", model: object) -> None:
    """Refuse a download that nobody could be asked about: an `Approve` that raises SanaError."""
    del model
    if offer.missing_bytes >= LARGE:
        raise SanaError(
            f"{offer.repo_id} is not here: {readable_bytes(offer.missing_bytes)} to download",
            hint=f"`sana pull {pull_name(offer.repo_id)}` downloads it first",
            code=ExitCode.ENVIRONMENT,
        )


def pull_name(repo_id: str) -> str:
    """Return the name that `sana pull` uses for a repository: its short name if it has one."""
    variant = find_variant(repo_id)
    return variant.alias if variant and variant.repo == repo_id else repo_id


def ask(
    repo_id: str,
    weight_variant: str | None,
    components: Sequence[str] = COMPONENTS,
    *,
    revision: str | None = None,
    verify: bool = False,
) -> "Offer":
    """List what a download would bring. A repository without our files is described by its pipeline's kind."""
    from sana_cli.checkpoints import hub, hub_outline

    try:
        return hub.ask(
            repo_id,
            weight_variant=weight_variant,
            components=components,
            revision=revision,
            verify=verify,
        )
    except SanaError as error:
        if error.code != ExitCode.CHECKPOINT:
            raise
        with naming_pipeline(repo_id, hub_outline.pipeline_index(repo_id)):
            raise


def outlined(
    offer: "Offer", judge: Callable[[Found], _Judged], *, planning: bool = False
) -> tuple[Found, _Judged]:
    """Return an offer without its weights, and the result of `judge`, whose errors then name the repository."""
    from sana_cli.checkpoints.hub_outline import Outline

    outline = Outline(offer)
    absent = Absent(
        headers=outline.headers,
        download_bytes=offer.missing_bytes,
        source="the headers of its files on the hub",
    )
    found = Found(folder=outline.folder, revision=offer.revision, absent=absent)
    try:
        judged = judge(found)
    except SanaError as error:  # about a file of the repository, not of a temporary folder
        error.message = error.message.replace(f"{outline.folder}/", f"{offer.repo_id}: ")
        error.hint += "; nothing was downloaded"
        raise
    if planning:
        outline.add_tokenizer()
    return found, judged


def published(variant: Variant, components: Sequence[str] = COMPONENTS, *, why: str = "") -> Found:
    """Outline a published model by its configuration; `why` says why the hub was not asked."""
    from sana_cli.checkpoints.published_outline import PublishedOutline

    outline = PublishedOutline(variant)
    absent = Absent(
        headers=outline.headers,
        download_bytes=sum(variant.download_bytes.get(part, 0) for part in components),
        source="its published configuration" + (f" ({why})" if why else ""),
    )
    return Found(folder=outline.folder, revision=None, absent=absent)


def _unknown_to_us(repo_id: str, named_by: str) -> SanaError:
    return SanaError(
        f"{named_by} names the model {repo_id}, which is neither published with Sana nor here",
        hint=f"if you trust it, download it first: sana pull {repo_id}",
        code=ExitCode.ENVIRONMENT,
    )
