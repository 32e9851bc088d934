"""`sana pull`: download a model before it is needed, knowing its size and licence first."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sana_cli.commands.pull_quantize import QuantizeStep
from sana_cli.config.choices import ControlType
from sana_cli.config.recipes import RECIPES
from sana_cli.errors import SanaError, checkpoint_error, usage_error
from sana_cli.terminal.completion import complete_missing, complete_recipe
from sana_cli.terminal.confirm import approval, ask_to_download, licence
from sana_cli.terminal.options import JsonOption, OfflineOption, QuietOption, YesOption
from sana_cli.text import counted, print_json, readable_bytes, say

if TYPE_CHECKING:
    from sana_cli.checkpoints.hub_snapshot import Verdict
    from sana_cli.config.variants import Variant
    from sana_cli.terminal.progress_bars import ConsoleReporter


def pull(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A known name, a hub id, or hed (finds lines for --control-type hed).",
            show_default=False,
            autocompletion=complete_missing,
        ),
    ],
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(RECIPES),
            help="Also make a quantized copy, named MODEL-RECIPE.",
            show_default=False,
            autocompletion=complete_recipe,
        ),
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option(
            metavar="lite|tiny|ID",
            help="Also download this decoder, for --decoder of `sana generate`.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Pictures to calibrate --quantize with; 0: quantize without data [default: as `sana quantize`]",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Check downloaded files without asking the hub; download only damaged ones again.",
            show_default=False,
        ),
    ] = False,
    offline: OfflineOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
    quiet: QuietOption = None,
) -> None:
    """Download MODEL, once its size and licence are confirmed.

    Resumes an interrupted download. Checks the digests of files that are here, and downloads damaged ones again.
    """
    from sana_cli.config.user_settings import preferences

    chosen = preferences()
    quiet = chosen.is_quiet(quiet)
    source = "--offline" if offline else chosen.sources.get("offline", "")
    offline = bool(chosen.offline if offline is None else offline)
    if model == ControlType.HED:
        _pull_hed(offline=offline, json=json, quiet=quiet)
        return
    if decoder is not None and _is_here(model):
        _pull_decoder(model, decoder, offline=offline, yes=yes, quiet=quiet)
        return
    variant = _published(model)
    step = QuantizeStep.of(model, quantize, samples, common=chosen.options)
    from sana_cli.checkpoints import hub
    from sana_cli.checkpoints.obtaining import ask
    from sana_cli.checkpoints.opening import judge_offer, open_snapshot
    from sana_cli.terminal.progress_bars import ConsoleReporter

    repo_id = variant.repo if variant else model
    weight_variant = variant.weight_variant if variant else None
    with ConsoleReporter(quiet=quiet) as reporter:
        kept = _verified(repo_id, weight_variant, reporter) if verify or offline else None
        if kept is not None and not kept.damaged:
            made = step.run(model, reporter) if step else None
            pulled = _sound(variant.alias if variant else model, repo_id, kept, made, variant)
            _say(pulled, typed=model, as_announced=len(kept.sound), json=json)
            return
    if offline:
        raise _offline(source, kept)
    revision = kept.revision if kept else None
    with ConsoleReporter(quiet=quiet) as reporter, reporter.stage("check files"):
        offer = ask(repo_id, weight_variant, revision=revision, verify=True)
    if offer.missing_bytes:
        offered = judge_offer(offer, name=model, variant=variant)
        ask_to_download(offer, offered, yes=yes, quiet=quiet)
    with ConsoleReporter(quiet=quiet) as reporter:
        snapshot = hub.fetch(
            repo_id, weight_variant=weight_variant, revision=revision, refresh=True,
            renew=offer.damaged, progress=reporter.download,
        )  # fmt: skip
        open_snapshot(model, snapshot.path, variant)  # what was here before is judged, too
        made = step.run(model, reporter) if step else None
    pulled = _Pulled(
        model=variant.alias if variant else model, repository=repo_id,
        revision=snapshot.revision, folder=str(snapshot.path),
        licence=licence(offer, variant)[0], total_bytes=offer.total_bytes,
        downloaded_bytes=offer.missing_bytes, damaged=offer.damaged, quantized=made,
    )  # fmt: skip
    _say(pulled, typed=model, as_announced=None, json=json)
    if decoder is not None:
        _pull_decoder(model, decoder, offline=False, yes=yes, quiet=quiet or json)


def _is_here(model: str) -> bool:
    """Return whether a model needs no download because it is built in, kept here or a folder."""
    from sana_cli.checkpoints.model_names import kept_folder
    from sana_cli.config.generation import BUILTIN
    from sana_cli.files import local_path

    return model == BUILTIN or kept_folder(model) is not None or local_path(model).is_dir()


def _pull_hed(*, offline: bool, json: bool, quiet: bool) -> None:
    """Download the file of the HED network."""
    from sana_cli.checkpoints.hed_file import pull_hed
    from sana_cli.checkpoints.obtaining import Access
    from sana_cli.terminal.progress_bars import ConsoleReporter

    with ConsoleReporter(quiet=quiet or json) as reporter:
        path = pull_hed(Access(offline=offline, progress=reporter.download))
    if json:
        print_json({"hed": str(path)})
    else:
        say(f"hed: {path}")
        say("find lines with it: sana generate PROMPT --control FILE --control-type hed")


def _pull_decoder(model: str, decoder: str, *, offline: bool, yes: bool, quiet: bool) -> None:
    """Download a decoder for a model that is here."""
    from sana_cli.checkpoints.obtain_decoder import obtain_decoder
    from sana_cli.checkpoints.obtaining import Access
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.terminal.progress_bars import ConsoleReporter

    with ConsoleReporter(quiet=quiet) as reporter:
        access = Access(
            offline=offline, progress=reporter.download, approve=approval(reporter, yes=yes)
        )
        found = obtain_decoder(decoder, open_checkpoint(model, offline=True), access)
    if found is not None and not quiet:
        say(f"decoder {decoder}: {found.path}")
        say(f"draw with it: sana generate PROMPT --model {model} --decoder {decoder}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pulled:
    """A model that is here now, as --json prints it."""

    model: str
    repository: str
    revision: str
    folder: str
    licence: str | None
    total_bytes: int
    downloaded_bytes: int = 0
    damaged: tuple[str, ...] = ()  # and replaced
    quantized: str | None  # the folder that --quantize made


def _sound(
    model: str, repo_id: str, kept: "Verdict", made: str | None, variant: "Variant | None"
) -> _Pulled:
    from sana_cli.checkpoints.hub_cache import repo_folder

    return _Pulled(
        model=model, repository=repo_id, revision=kept.revision,
        folder=str(repo_folder(repo_id).snapshot(kept.revision)),
        licence=variant.license if variant else None,
        total_bytes=sum(file.size for file in kept.sound), quantized=made,
    )  # fmt: skip


def _say(pulled: _Pulled, *, typed: str, as_announced: int | None, json: bool) -> None:
    """Print the result under the name that was `typed`; `as_announced` counts files that were only read and compared."""
    if json:
        print_json(asdict(pulled))
        return
    if as_announced is not None:
        files = f"{counted(as_announced, 'file')}, {readable_bytes(pulled.total_bytes)}"
        say(f"{typed}: {files}, as the hub announced them, {pulled.folder}")
        return
    fetched = pulled.downloaded_bytes
    what = f"{readable_bytes(fetched)} downloaded" if fetched else "complete"
    if pulled.damaged:
        what += f", {counted(len(pulled.damaged), 'damaged file')} replaced"
    name = Path(pulled.quantized).name if pulled.quantized else typed
    say(f"{typed}: {what}, {pulled.folder}")
    say(f"draw with it: sana generate PROMPT --model {name}")


def _verified(
    repo_id: str, weight_variant: str | None, reporter: "ConsoleReporter"
) -> "Verdict | None":
    """Read the cached files and compare them; None if there is no whole model to read."""
    from sana_cli.checkpoints.hub_snapshot import verify

    with reporter.stage("check files"):
        return verify(repo_id, weight_variant=weight_variant)


_ONLINE = "--online for this command"


def _offline(source: str, kept: "Verdict | None") -> SanaError:
    if kept is not None:
        return checkpoint_error(
            f"{kept.damaged[0]} is damaged, and offline is set by {source}",
            hint=f"{_ONLINE} fetches it again",
        )
    return usage_error(
        f"offline is set by {source}, and a download needs the network",
        f"{_ONLINE}, or `sana config unset offline`" if source != "--offline" else "omit --offline",
    )


def _published(model: str) -> "Variant | None":
    """The published model of this name, None for another repo; SanaError for what is no repo."""
    from sana_cli.checkpoints.model_names import kept_folder, lasting_name, require_name
    from sana_cli.config.generation import BUILTIN
    from sana_cli.config.variants import find_variant
    from sana_cli.files import local_path

    require_name(model)
    if model == BUILTIN or kept_folder(model) is not None:
        raise usage_error(f"{model} is here already", f"sana generate PROMPT --model {model}")
    variant = find_variant(model)
    if variant is None and local_path(model).exists():
        raise usage_error(f"{model} is a local folder or file", "it can be used as it is: --model")
    lasting_name(model)  # an unknown name ends here
    return variant
