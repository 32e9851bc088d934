"""Complete words when Tab is pressed. If nothing fits, the shell offers files by itself.

A shell waits for the answer, so nothing heavy is imported; and an error would only garble the line
that is typed, so there are none.
"""

import os
from pathlib import Path

import typer

from sana_cli.errors import SanaError

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")


def complete_model(incomplete: str) -> list[str]:
    """List every model that can be named."""
    return _models(
        incomplete, "built in", "downloaded", "partly downloaded", "not downloaded", "quantized"
    )


def complete_removable(incomplete: str) -> list[str]:
    """Models that can be removed."""
    return _models(incomplete, "downloaded", "partly downloaded", "quantized")


def complete_missing(incomplete: str) -> list[str]:
    """Models that are not wholly here."""
    return _models(incomplete, "not downloaded", "partly downloaded")


def _models(incomplete: str, *states: str) -> list[str]:
    from sana_cli.checkpoints.installed import listed_models

    try:
        listed = listed_models()
    except (SanaError, OSError):
        return []
    return [m.name for m in listed if m.state in states and m.name.startswith(incomplete)]


def complete_file(incomplete: str, kind: str) -> list[str]:
    """Folders, and files of a kind (`pictures` or `loras`), by their names' ends; `~` is a home folder."""
    _, _, begun = incomplete.rpartition("/")
    before = incomplete.removesuffix(begun)
    try:
        place = Path(before or ".").expanduser()
        entries = [(entry.name, entry.is_dir()) for entry in os.scandir(place)]
    except (OSError, RuntimeError, ValueError):
        return []
    return sorted(
        f"{before}{name}{'/' if is_folder else ''}"
        for name, is_folder in entries
        if name.startswith(begun)
        and name.startswith(".") <= begun.startswith(".")
        and (is_folder or _is_of_kind(name, kind))
    )


def _is_of_kind(name: str, kind: str) -> bool:
    if kind == "loras":
        return name.endswith(".safetensors") and not name.endswith(".latents.safetensors")
    return name.lower().endswith(_PICTURES)


def complete_recipe(incomplete: str) -> list[str]:
    """Recipes of `sana quantize`."""
    from sana_cli.config.recipes import RECIPES

    return [name for name in RECIPES if name.startswith(incomplete)]


def complete_key(incomplete: str) -> list[str]:
    """Settings."""
    from sana_cli.config.user_settings import SETTINGS

    return [key for key in SETTINGS if key.startswith(incomplete)]


def complete_value(ctx: typer.Context, incomplete: str) -> list[str]:
    """Values of the setting that was named before."""
    from sana_cli.config.user_settings import SETTINGS

    key = ctx.params.get("key")
    if key == "model":
        return complete_model(incomplete)
    setting = SETTINGS.get(str(key))
    if setting is None:
        return []
    values = ("true", "false") if setting.kind == "true or false" else setting.choices
    return [value for value in values if value.startswith(incomplete)]
