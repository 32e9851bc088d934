"""Turn Typer's command line errors into the words of all our other errors.

Typer carries its own copy of Click in newer versions, and only the base class of its errors is
public in all of them: so the kinds are distinguished by their attributes.
"""

import re
from typing import Any

import typer

from sana_cli.text import closest

_TYPES = {
    "is not a valid int": "is not a whole number", "is not a valid float": "is not a number",
}  # fmt: skip
UsageError: Any = typer.BadParameter.__mro__[1]


def in_our_words(error: Any) -> tuple[str, str]:
    """Return the message and the hint of a mistake."""
    command = error.ctx.command_path if error.ctx else "sana"
    see = f"see `{command} --help`"
    kind = type(error).__name__
    if kind == "NoSuchOption":
        return f"there is no option {error.option_name}", _instead(error, command) or see
    if kind == "BadOptionUsage":
        takes = "takes no value" if "not take" in error.message else "needs a value"
        return f"{error.option_name} {takes}", see
    if kind == "MissingParameter":
        return f"{_name(error)} is missing", see
    if kind == "BadParameter" and (error.param or error.param_hint):
        return f"{_name(error)}: {_plain(error.message)}", see
    message = error.format_message()
    if extra := re.match(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", message):
        return f"unexpected argument {extra[1]!r}", see
    if message == "Missing command.":
        names = ", ".join(error.ctx.command.list_commands(error.ctx))
        return f"{command} needs a command", f"one of: {names}"
    return _plain(message), see


def _instead(error: Any, command: str) -> str:
    """Suggest what an unknown option was probably meant to be."""
    if meant := closest(error.option_name, error.possibilities or [], cutoff=0.0):
        return f"did you mean {meant}? see `{command} --help`"
    if command == "sana generate" and not error.option_name.startswith("--"):
        return 'a prompt that begins with a dash: sana generate -p "-PROMPT"; see `sana generate --help`'
    return ""


def _name(error: Any) -> str:
    """Return the option or argument as users write it."""
    if error.param is None:
        return str(error.param_hint)
    options = [name for name in error.param.opts if name.startswith("--")]
    return options[0] if options else str(error.param.make_metavar(error.ctx)).strip("[]")


def _plain(message: str) -> str:
    text = " ".join(message.split()).rstrip(".")  # Typer lists choices on lines of their own
    for theirs, ours in _TYPES.items():
        text = text.replace(theirs, ours)
    return text[:1].lower() + text[1:]
