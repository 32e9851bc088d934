"""`sana models`, `sana default` and `sana remove`: which models there are, and which ones stay."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sana_cli.errors import usage_error
from sana_cli.terminal.completion import complete_model, complete_removable
from sana_cli.terminal.confirm import confirm
from sana_cli.terminal.options import JsonOption, YesOption
from sana_cli.text import columns, note, print_json, readable_bytes, say

if TYPE_CHECKING:
    from sana_cli.checkpoints.installed import ListedModel

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name that `sana models` lists, or a hub id.",
        show_default=False,
        autocompletion=complete_removable,
    ),
]


def models(json: JsonOption = False) -> None:
    """List models: known names, what is here, sizes on disk."""
    from sana_cli.checkpoints import hub_cache
    from sana_cli.checkpoints.installed import listed_models, total_bytes
    from sana_cli.config.places import models_folder

    listed, default = listed_models(), _default_name()
    total = total_bytes()
    if json:
        document = {
            "default": default,
            "models": [_facts(model, default) for model in listed],
            "total_bytes": total,
            "folders": [str(hub_cache.root()), str(models_folder())],
        }
        print_json(document)
        return
    rows = [("model", "state", "on disk", "")]
    for model in listed:
        size = readable_bytes(model.size_bytes) if model.size_bytes else "-"
        notes = [model.note] if model.note else []
        if model.download_bytes:
            notes.append(f"{readable_bytes(model.download_bytes)} to download")
        if model.name == default:
            notes.append("the default")
        rows.append((model.name, model.state, size, ", ".join(notes)))
    say(*columns(rows))
    if default not in [model.name for model in listed]:
        say(f"the default is {default}")
    amount = readable_bytes(total) if total else "nothing"
    say(f"{amount} in {hub_cache.root()} and {models_folder()}")


def _facts(model: "ListedModel", default: str) -> dict[str, Any]:
    return {
        "name": model.name,
        "state": model.state,
        "size_bytes": model.size_bytes,
        "download_bytes": model.download_bytes,
        "folder": str(model.folder) if model.folder else None,
        "native_size": model.native_size,
        "steps": model.steps,
        "problem": model.problem or None,
        "default": model.name == default,
    }


def _default_name() -> str:
    """The default model, under the name that the list has for it."""
    from sana_cli.config.generation import BUILTIN
    from sana_cli.config.user_settings import preferences
    from sana_cli.config.variants import VARIANTS, find_variant

    name = preferences().options.model or BUILTIN
    variant = find_variant(name)
    return variant.alias if variant and variant.repo == VARIANTS[variant.alias].repo else name


def default(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="The new default; none: show it.",
            autocompletion=complete_model,
        ),
    ] = None,
) -> None:
    """Show or choose the default model."""
    import os

    from sana_cli.config.generation import BUILTIN
    from sana_cli.config.user_settings import preferences

    if model is None:
        chosen = preferences()
        source = chosen.sources.get("model", "nothing is set")
        say(f"{chosen.options.model or BUILTIN}  ({source})")
        return
    from sana_cli.config.settings_file import set_value

    name, here = usable_name(model)
    file = set_value("model", name)
    say(f"{name}  ({file})")
    if os.environ.get("SANA_MODEL"):
        note("SANA_MODEL is set, and overrides the file")
    if not here:
        note_missing(name)


def usable_name(model: str) -> tuple[str, bool]:
    """Return a name that opens the model on any later day, and whether it is here; raise SanaError
    if a run would refuse it.
    """
    from sana_cli.checkpoints.model_names import lasting_name
    from sana_cli.checkpoints.opening import open_if_here

    name = lasting_name(model)
    return name, open_if_here(name) is not None


def note_missing(name: str) -> None:
    """Say that a model which was chosen is still to be downloaded."""
    note(f"it is not here yet; `sana pull {name}` downloads it")


def remove(model: ModelArgument, yes: YesOption = False) -> None:
    """Delete a downloaded or quantized model from this machine."""
    from quant.manifest import MANIFEST
    from sana_cli.checkpoints import hub_cache
    from sana_cli.checkpoints.model_names import (
        BUILTIN_MODELS,
        kept_folder,
        looks_like_repo,
        require_name,
    )
    from sana_cli.config.variants import find_variant, suggest
    from sana_cli.files import local_path

    require_name(model)
    if model in BUILTIN_MODELS:
        raise usage_error(
            f"{model} is part of the package", "`sana models` lists the models that can be removed"
        )
    kept = kept_folder(model)
    variant = find_variant(model)
    if kept is None and variant is None and local_path(model).exists():
        raise usage_error(
            f"{model} is your own folder", "sana removes only models that it downloaded or made"
        )
    if kept is not None:
        if not (kept / MANIFEST).exists() and not kept.is_symlink():
            raise usage_error(
                f"{kept} is no model that sana made",
                "sana removes only models that it downloaded or made",
            )
        folder, repo = kept, None
    else:
        repo_id = variant.repo if variant else model
        repo = hub_cache.find(repo_id) if variant or looks_like_repo(model) else None
        if repo is None:
            close = suggest(model) if variant is None else None
            meant = f"did you mean {close}? " if close else ""
            raise usage_error(
                f"{model} is not here", f"{meant}`sana models` lists the models on this machine"
            )
        folder = repo.folder
    freed = readable_bytes(hub_cache.freed_bytes(folder))
    shared = "" if repo is None else ", shared with other programs that use the hub's cache"
    confirm(f"Delete {model}, {freed} in {folder}{shared}?", yes=yes)
    hub_cache.remove_repo(repo) if repo else hub_cache.remove_folder(folder)
    say(f"removed {model}: {freed} freed")
    if _default_name() == (variant.alias if variant else model):
        note(f"{model} is still the default; `sana default NAME` chooses another")
