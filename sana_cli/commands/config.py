"""`sana config`: look at and change what is set once for every command."""

from typing import Annotated, Any

import typer

from sana_cli.commands.models import note_missing, usable_name
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.terminal.completion import complete_key, complete_value
from sana_cli.terminal.help import Command, Verbs
from sana_cli.terminal.options import JsonOption
from sana_cli.text import note, print_json, say

app = typer.Typer(
    name="config",
    cls=Verbs,
    help="Show and change your settings: defaults for every command.",
    rich_markup_mode=None,
)
_WIDTH = 80  # characters of a terminal's line
_SET = "sana config set KEY VALUE"
KeyArgument = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="A setting; `sana config show` lists them.",
        autocompletion=complete_key,
    ),
]


@app.command(cls=Command)
def show(json: JsonOption = False) -> None:
    """Show every setting, its value, and where that comes from."""
    from sana_cli.config.places import config_path
    from sana_cli.config.user_settings import SETTINGS, preferences, unknown_variables

    chosen = preferences()
    values = {key: chosen.values.get(key) for key in SETTINGS}
    for problem in unknown_variables():
        note(problem)
    if json:
        settings: dict[str, Any] = {
            key: {
                "value": value,
                "default": SETTINGS[key].default,
                "effective": SETTINGS[key].default if value is None else value,
                "source": chosen.sources.get(key),
            }
            for key, value in values.items()
        }
        document = {"file": str(config_path()), "settings": settings}
        print_json(document)
        return
    from sana_cli.text import columns

    file, lines = str(config_path()), [("setting", "value", "from", "")]
    for key, value in values.items():
        shown = SETTINGS[key].unset if value is None else _as_typed(value)
        source = chosen.sources.get(key, "default")
        lines.append((key, shown, "file" if source == file else source, SETTINGS[key].help))
    say(*columns(lines, width=_WIDTH))
    if file in chosen.sources.values():
        say(f"file: {file}")


def _as_typed(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


app.command("list", cls=Command, hidden=True)(show)  # as other programs call it


@app.command(cls=Command)
def get(key: KeyArgument, json: JsonOption = False) -> None:
    """Print the value of KEY; print nothing if the model decides."""
    from sana_cli.config.user_settings import find_setting, preferences

    setting = find_setting(key)
    chosen = preferences().values.get(key)
    value = setting.default if chosen is None else chosen
    if json:
        print_json({"key": key, "effective": value})
    else:
        say("" if value is None else _as_typed(value))


@app.command(cls=Command)
def edit() -> None:
    """Open the file of settings in your editor, and check it afterwards."""
    import os
    import shlex
    import subprocess
    import sys

    from sana_cli.config.places import config_path
    from sana_cli.config.user_settings import preferences

    file = config_path()
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or _usual_editor()
    if not sys.stdin.isatty():
        raise usage_error(
            "an editor needs a terminal", f"set single values: {_SET}; or edit {file}"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        code = subprocess.run([*shlex.split(editor), str(file)], check=False).returncode
    except (OSError, ValueError) as error:
        raise SanaError(
            f"cannot run the editor {editor!r}: {error}",
            hint=f"set EDITOR to one that is installed, or edit {file}",
            code=ExitCode.ENVIRONMENT,
        ) from error
    if code:
        raise SanaError(f"the editor ended with code {code}", hint=f"look at {file}")
    preferences()  # a mistake is shown now, not with the next picture


def _usual_editor() -> str:
    import os

    return "notepad" if os.name == "nt" else "vi"


@app.command(cls=Command)
def path() -> None:
    """Print the path of the settings file."""
    from sana_cli.config.places import config_path

    say(str(config_path()))


@app.command("set", cls=Command)
def set_(
    key: KeyArgument,
    value: Annotated[
        str, typer.Argument(metavar="VALUE", help="Its new value.", autocompletion=complete_value)
    ],
) -> None:
    """Set KEY to VALUE for all commands from now on."""
    import os
    from shlex import quote

    from sana_cli.config.user_settings import find_setting, variable

    setting = find_setting(key)
    try:
        parsed = setting.parse(value)
    except ValueError as error:
        raise usage_error(f"{key} cannot be {value!r}", f"it {error}") from error
    here = True
    if key == "model":
        parsed, here = usable_name(value)
    elif key == "safety_model":
        parsed = _safety_model(value)
    elif key == "safety" and parsed is True:
        from sana_cli.config.user_settings import preferences
        from sana_cli.pipeline.safety import SafetyCheck

        SafetyCheck.find(preferences().safety_model)  # else every later command would end here
    elif key == "output":
        _check_output(value)
        parsed = _lasting_output(value)
    elif key == "wildcards_folder":
        parsed = _lasting_folder(value)
    elif key == "control_hed":
        from sana_cli.checkpoints.hed_file import find_hed

        parsed = str(find_hed(value).path.absolute())
    from sana_cli.config.settings_file import set_value

    file = set_value(key, parsed)
    say(f"{key} = {_as_typed(parsed)}  ({file})")
    if key == "output" and (missing := _missing_folder(value)):
        note(f"{missing} does not exist yet; create it before drawing: mkdir -p {quote(missing)}")
    if key == "decoder" and (doubt := _doubt_about_decoder(str(parsed))):
        note(f"{doubt}; undo this with `sana config unset decoder`")
    if not here:
        note_missing(str(parsed))
    if os.environ.get(variable(key)):
        note(f"{variable(key)} is set, and overrides the file")


def _doubt_about_decoder(name: str) -> str | None:
    """Say why the model of now cannot draw with a decoder; None where it can, or is not here to be asked."""
    from sana_cli.checkpoints.find_decoder import find_decoder
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.config.user_settings import preferences

    try:
        checkpoint = open_checkpoint(preferences().options.model_or_builtin, offline=True)
    except SanaError:
        return None
    try:
        find_decoder(name, checkpoint)
    except SanaError as error:
        return error.message
    return None


def _safety_model(value: str) -> str:
    """Return a name that opens the checker from any folder; raise SanaError if it is not here."""
    from sana_cli.files import local_path
    from sana_cli.pipeline.safety import SafetyCheck

    folder = local_path(value)
    SafetyCheck.find(value)
    return str(folder.resolve()) if folder.is_dir() else value


def _check_output(value: str) -> None:
    """SanaError for a pattern that no picture can be named by."""
    from sana_cli.files import local_path
    from sana_cli.images.file_names import Named, expand, is_pattern
    from sana_cli.request.output_paths import require_picture

    path = local_path(value)
    if is_pattern(path):
        require_picture(path, is_folder=False)
        expand(path, [Named("a prompt", 0, 1, "id")])


def _lasting_folder(value: str) -> str:
    """The same folder wherever commands run. SanaError (usage) where there is none."""
    from sana_cli.files import local_path, no_folder

    path = local_path(value)
    if not path.is_dir():
        raise no_folder(path, "wildcards_folder")
    return value if value.startswith("~") else str(path.absolute())


def _lasting_output(value: str) -> str:
    """The same folder wherever commands run; a bare pattern names files in each working folder."""
    import os

    from sana_cli.files import local_path
    from sana_cli.images.file_names import is_pattern

    path = local_path(value)
    if value.startswith("~") or (is_pattern(path) and path.parent == type(path)(".")):
        return value
    return str(path.absolute()) + ("/" if value.endswith(("/", os.sep)) else "")


def _missing_folder(output: str) -> str | None:
    """The folder that pictures would go to, if it is not there."""
    import os

    from sana_cli.files import local_path
    from sana_cli.images.file_names import is_pattern
    from sana_cli.images.formats import format_of

    path = local_path(output)
    if output.endswith(("/", os.sep)) or is_pattern(path):
        return None  # it is made when it is needed
    folder = path.parent if format_of(path) is not None else path
    return None if folder.is_dir() else str(folder)


@app.command(cls=Command)
def unset(key: KeyArgument) -> None:
    """Remove KEY from the file; the model's own default is used again."""
    from sana_cli.config.settings_file import unset_value
    from sana_cli.config.user_settings import find_setting

    if unset_value(key):  # before the key is checked: a wrong one must be removable
        say(f"{key} is no longer set")
        return
    find_setting(key)
    say(f"{key} was not set")
