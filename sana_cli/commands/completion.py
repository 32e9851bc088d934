"""What the shell offers when Tab is pressed. Where nothing fits, it offers files by itself.

A shell waits for the answer, so nothing heavy is imported; and an error would only garble the line that is typed, so
there are none.
"""

from typing import Annotated

import typer

from sana_cli.errors import SanaError


def complete_model(incomplete: str) -> list[str]:
    """Every model that can be named."""
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
    from sana_cli.model_list import listed_models

    try:
        listed = listed_models()
    except (SanaError, OSError):
        return []
    return [m.name for m in listed if m.state in states and m.name.startswith(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    """Recipes of `sana quantize`."""
    from sana_cli.recipes import RECIPES

    return [name for name in RECIPES if name.startswith(incomplete)]


def complete_key(incomplete: str) -> list[str]:
    """Settings."""
    from sana_cli.user_config import SETTINGS

    return [key for key in SETTINGS if key.startswith(incomplete)]


def complete_value(ctx: typer.Context, incomplete: str) -> list[str]:
    """Values of the setting that was named before."""
    from sana_cli.user_config import SETTINGS

    key = ctx.params.get("key")
    if key == "model":
        return complete_model(incomplete)
    setting = SETTINGS.get(str(key))
    if setting is None:
        return []
    values = ("true", "false") if setting.kind == "true or false" else setting.choices
    return [value for value in values if value.startswith(incomplete)]


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|DIR",
        help="A known name (sana-0.6b), a hub id, a folder or a .pth file "
        "[default: your setting, else the built-in]",
        show_default=False,
        autocompletion=complete_model,
    ),
]
