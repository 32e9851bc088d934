"""`sana config`: look at and change what is set once for every command."""

from typing import Annotated, Any

import typer

from sana_cli.commands.completion import complete_key, complete_value
from sana_cli.commands.grouped import Verbs
from sana_cli.errors import ExitCode, SanaError
from sana_cli.options import JsonOption
from sana_cli.text import note, print_json, say

app = typer.Typer(
    name="config",
    cls=Verbs,
    help="Show and change your settings: defaults for every command.",
    rich_markup_mode=None,
)
KeyArgument = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="Which setting; `sana config show` lists them.",
        autocompletion=complete_key,
    ),
]


@app.command()
def show(json: JsonOption = False) -> None:
    """Show every setting, its value, and where that comes from."""
    from sana_cli.user_config import (
        SETTINGS,
        config_path,
        preferences,
        unknown_variables,
    )

    chosen = preferences()
    values = {key: getattr(chosen, key) for key in SETTINGS}
    for problem in unknown_variables():
        note(problem)
    if json:
        settings: dict[str, Any] = {
            key: {
                "value": value,
                "source": chosen.sources.get(key),
                "without": SETTINGS[key].unset,
            }
            for key, value in values.items()
        }
        document = {"file": str(config_path()), "settings": settings}
        print_json(document)
        return
    from sana_cli.output import columns

    lines = [("setting", "value", "from", "")]
    for key, value in values.items():
        shown = SETTINGS[key].unset if value is None else _as_typed(value)
        lines.append((key, shown, chosen.sources.get(key, "default"), SETTINGS[key].help))
    say(*columns(lines))


def _as_typed(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


@app.command()
def path() -> None:
    """Print where the file of settings is, or would be."""
    from sana_cli.user_config import config_path

    say(str(config_path()))


@app.command("set")
def set_(
    key: KeyArgument,
    value: Annotated[
        str, typer.Argument(metavar="VALUE", help="Its new value.", autocompletion=complete_value)
    ],
) -> None:
    """Set KEY to VALUE for all commands from now on."""
    import os
    from shlex import quote

    from sana_cli.user_config import find_setting, variable

    setting = find_setting(key)
    try:
        parsed = setting.parse(value)
    except ValueError as error:
        raise SanaError(
            f"{key} cannot be {value!r}", hint=f"it {error}", code=ExitCode.USAGE
        ) from error
    if not str(parsed).isprintable():  # broken UTF-8 too, which a file of TOML cannot hold
        raise SanaError(
            f"{key} cannot be {value!r}",
            hint="it should be text in UTF-8, on one line",
            code=ExitCode.USAGE,
        )
    if key == "model":
        from sana_cli.checkpoint import lasting_name

        parsed = lasting_name(value)
    elif key == "safety_model":
        parsed = _safety_model(value)
    elif key == "output":
        _check_output(value)
    from sana_cli.config_file import set_value

    file = set_value(key, parsed)
    say(f"{key} = {_as_typed(parsed)}  ({file})")
    if key == "output" and (missing := _missing_folder(value)):
        note(
            f"{missing} is not there, and no picture is saved before it is: mkdir -p {quote(missing)}"
        )
    if os.environ.get(variable(key)):
        note(f"{variable(key)} is set, and wins over the file")


def _safety_model(value: str) -> str:
    """What finds it from any folder; SanaError where it is not here."""
    from sana_cli.checkpoint import local_path
    from sana_cli.safety import SafetyCheck

    folder = local_path(value)
    SafetyCheck.find(value)
    return str(folder.resolve()) if folder.is_dir() else value


def _check_output(value: str) -> None:
    """SanaError for a pattern that no picture can be named by."""
    from sana_cli.checkpoint import local_path
    from sana_cli.naming import expand, is_pattern
    from sana_cli.request import require_png

    path = local_path(value)
    if is_pattern(path):
        require_png(path, is_folder=False)
        expand(path, [("a prompt", 0)])


def _missing_folder(output: str) -> str | None:
    """The folder that pictures would go to, if it is not there."""
    import os

    from sana_cli.checkpoint import local_path
    from sana_cli.naming import is_pattern

    path = local_path(output)
    names_files = is_pattern(path) or path.suffix.lower() == ".png"
    folder = path.parent if names_files and not output.endswith(("/", os.sep)) else path
    return None if folder.is_dir() else str(folder)


@app.command()
def unset(key: KeyArgument) -> None:
    """Remove KEY from the file; the model's own default is used again."""
    from sana_cli.config_file import unset_value
    from sana_cli.user_config import find_setting

    if unset_value(key):  # before the key is checked: a wrong one must be removable
        say(f"{key} is no longer set")
        return
    find_setting(key)
    say(f"{key} was not set")
