"""`sana generate` for command lines that need no Typer to be read.

Importing Typer takes longer than handing a picture to a server and writing its file, and torch's libraries begin to load
before the settings are read. A prompt with plain options is read here, by the same table; every other line is left to
Typer: mistakes, sweeps, prompt files, pictures to repeat.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sana_cli.config.generation import FLAGS, GenerationOptions

_SWITCHES = ("--force", "--json", "--local", "--quiet")
_NUMBERS = {"whole number": r"\d{1,18}", "number": r"\d{1,9}(\.\d{1,9})?"}


class PlainWords(NamedTuple):
    """A plain command line, read as Typer reads it."""

    typed: GenerationOptions
    server: str | None
    switches: set[str]


def plain_words(arguments: Sequence[str]) -> PlainWords | None:
    """Read a command line that begins with `generate`; None for one that Typer is to read."""
    said: dict[str, Any] = {}
    own: dict[str, str] = {}
    switches: set[str] = set()
    words = iter(arguments[1:])
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        name = {"-q": "--quiet"}.get(name, name)
        if name in _SWITCHES and not equals:
            switches.add(name)
            continue
        if not word.startswith("-"):
            name, value = "PROMPT", word
        elif not equals:
            value = next(words, "")
        if not value or value.startswith("-") or name in own:
            return None
        own[name] = value
    for name in own.keys() & FLAGS.keys():
        option = FLAGS[name]
        if option.name in said or (read := _plain_value(option, own.pop(name))) is None:
            return None
        said[option.name] = read
    prompt, server, size = (
        own.pop("PROMPT", None),
        own.pop("--server", None),
        own.pop("--size", None),
    )
    if (
        own
        or prompt is None
        or said.keys() & {"decode", "tile"}
        or (size and said.keys() & {"width", "height", "aspect"})
        or ("aspect" in said and said.keys() & {"width", "height"})
        or "," in said.get("aspect", "")
    ):
        return None
    if size:
        if not re.fullmatch(r"\d{1,6}(x\d{1,6})?", size, re.ASCII):
            return None
        width, _, height = size.partition("x")
        said |= {"width": int(width), "height": int(height or width)}
    return PlainWords(GenerationOptions(prompt=prompt, **said), server, switches)


def _plain_value(option: Any, text: str) -> Any:
    """A value as Typer reads it; None for one that Typer is to read."""
    choices = option.option.choices
    if choices:
        if text not in list(choices):
            return None
        return text if option.option.sweep else choices(text)
    if pattern := _NUMBERS.get(option.value):
        if not re.fullmatch(pattern, text, re.ASCII):
            return None
        return int(text) if option.value == "whole number" else float(text)
    is_several = option.option.sweep and "," in text
    return None if is_several or option.value != "text" else text


def drawn_plainly(arguments: Sequence[str], prepare: Callable[[], None]) -> bool:
    """Draw what a plain command line asks for. False where Typer's command is to do it all.

    `prepare` is called before torch is loaded, which it is not where a server draws.
    """
    from sana_cli.remote.choice import AUTO, OFF, chosen_server
    from sana_cli.remote.state_file import running_servers

    if (words := plain_words(arguments)) is None:
        return False
    switches = words.switches
    server = chosen_server(words.server, local="--local" in switches)
    if server == AUTO and not running_servers():
        server = OFF
    if server == OFF:
        from sana_cli.commands.draw_here import begin_to_load

        prepare()
        begin_to_load()
    from sana_cli.commands.generate_call import Call, with_settings
    from sana_cli.config.user_settings import preferences, unknown_variables
    from sana_cli.terminal.display import Seeing

    chosen = preferences()
    force, json = "--force" in switches, "--json" in switches
    typed_quiet = True if "--quiet" in switches else None
    options = with_settings(words.typed, chosen.options)
    seeing = Seeing.plan(
        chosen, show=None, preview=None, file=None, every=None,
        json=json, quiet=typed_quiet, output=options.output, overwrite=force,
    )  # fmt: skip
    call = Call(
        options=options, typed=words.typed, picture=None, prompts=None, seeing=seeing, grid=False,
        overwrite=force, json=json, is_checked=chosen.is_checked(None), check_source=chosen.check_source(None), is_dry=False,
        in_vain=(*unknown_variables(), *seeing.in_vain), axes=[],
    )  # fmt: skip
    call.find_server(server)
    quiet = chosen.is_quiet(typed_quiet)
    if not call.draw_remotely(quiet=quiet):
        from sana_cli.commands.draw_here import draw_here
        from sana_cli.terminal.logs import set_up

        prepare()
        set_up(0)
        draw_here(call, chosen, offline=chosen.is_offline(None), yes=False, quiet=quiet)
    return True
