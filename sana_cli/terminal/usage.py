"""Turn Typer's command line errors into the words of all our other errors.

Typer carries its own copy of Click in newer versions, and only the base class of its errors is
public in all of them: so the kinds are distinguished by their attributes.
"""

import re
from typing import Any

import typer

from sana_cli.config.other_values import meant_choice
from sana_cli.terminal.other_words import OPTIONS, SENTENCES
from sana_cli.text import closest

_TYPES = {
    "is not a valid int range": "is not a whole number", "is not a valid float range": "is not a number",
    "is not a valid int": "is not a whole number", "is not a valid float": "is not a number",
}  # fmt: skip
_OUT_OF_RANGE = re.compile(
    r"(?P<value>\S+) is not in the range (?:(?P<low>[^<]+)(?P<above><=?))?x(?:(?P<below><=?)(?P<high>\S+)|>=(?P<least>\S+))?"
)
_RESEMBLES = 0.75  # for `closest`: "--step" does, "--res" does not resemble "--yes"
UsageError: Any = typer.BadParameter.__mro__[1]


def in_our_words(error: Any) -> tuple[str, str]:
    """Return the message and the hint of a mistake."""
    command = error.ctx.command_path if error.ctx else "sana"
    see = f"see `{command} --help`"
    kind = type(error).__name__
    if kind == "NoSuchOption":
        return f"there is no option {error.option_name}", _instead(error, command)
    if kind == "BadOptionUsage":
        takes = "takes no value" if "not take" in error.message else "needs a value"
        return f"{error.option_name} {takes}", see
    if kind == "MissingParameter":
        return f"{_name(error)} is missing", see
    if kind == "BadParameter" and (error.param or error.param_hint):
        said = _plain(error.message)
        if limits := _OUT_OF_RANGE.match(said):
            return f"{_name(error)}: {limits['value']} is out of range", _range(limits)
        if command == "sana generate" and (several := re.match(r"'([^',]+,[^']*)' is not", said)):
            from sana_cli.request.sweep import one_value

            refused = one_value(_name(error), several[1])
            return refused.message, refused.hint
        return f"{_name(error)}: {said}", _other_value(error) or _number(error, said) or see
    message = error.format_message()
    if extra := re.match(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", message):
        return f"unexpected argument {extra[1]!r}", see
    if message == "Missing command.":
        group = error.ctx.command
        shown = [
            n for n in group.list_commands(error.ctx) if not group.get_command(error.ctx, n).hidden
        ]
        names = ", ".join(shown)
        return f"{command} needs a command", f"one of: {names}"
    return _plain(message), see


def _range(limits: re.Match[str]) -> str:
    """Say which values of a range can be used: Typer writes 2<=x<=1000, 0<x<1 or x>=1."""
    if limits["least"]:
        return f"use {limits['least']} or more"
    low = f"more than {limits['low']}" if limits["above"] == "<" else limits["low"]
    if not limits["high"]:
        return f"use {low}"
    high = f"less than {limits['high']}" if limits["below"] == "<" else limits["high"]
    return f"use {low} to {high}" if low else f"use at most {high}"


def _number(error: Any, said: str) -> str:
    """Say which numbers an option takes; "" where it takes others, or any."""
    kind = re.fullmatch(r"'.*' is not (a (?:whole )?number)", said)
    param = error.param
    if kind is None or param is None:
        return ""
    from sana_cli.config.generation import FLAGS

    sides = tuple(getattr(param.type, side, None) for side in ("min", "max"))
    limits = [FLAGS[flag].option.limits for flag in param.opts if flag in FLAGS]
    low, high = next(filter(None, limits), sides)
    return "" if None in (low, high) else f"use {kind[1]} from {low} to {high}"


def _instead(error: Any, command: str) -> str:
    """Suggest what an unknown option was probably meant to be."""
    name = error.option_name
    plain = name.lower().replace("_", "-")
    known = (
        {opt for param in error.ctx.command.params for opt in (*param.opts, *param.secondary_opts)}
        if error.ctx
        else set()
    )
    meant = OPTIONS.get(plain, "")
    if meant.split(" ")[0] not in known:
        meant = ""
    said = "" if meant else SENTENCES.get(name, SENTENCES.get(plain, ""))
    if not meant and not said:
        meant = closest(name, error.possibilities or [], cutoff=_RESEMBLES) or ""
    hints = [f"did you mean {meant}?"] if meant else []
    if said:
        hints.append(f"{said};")
    elif command == "sana generate" and not name.startswith("--"):
        hints.append('a prompt that begins with a dash: sana generate -p "-PROMPT";')
    return " ".join([*hints, f"see `{command} --help`"])


def _other_value(error: Any) -> str:
    """Suggest a value in place of one that is none of an option's choices; "" if nothing resembles it."""
    choice = re.match(r"'(.*)' is not one of (.*)", _plain(error.message))
    if choice:
        near = meant_choice(choice[1], re.findall(r"'([^']+)'", choice[2]))
        return f"did you mean {near}?" if near else ""
    if error.param is not None and error.param.name == "count":
        return "-n is the number of pictures; what to keep out of them: --negative"
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
