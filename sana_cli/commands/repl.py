"""`sana repl`: type a prompt, get a picture, with the model kept loaded."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, partial
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from sana_cli.config.choices import RANDOM_SEEDS, Precision, parse_seed, parse_size
from sana_cli.errors import ExitCode, SanaError
from sana_cli.system.process import was_asked_to_end
from sana_cli.terminal.completion import complete_model
from sana_cli.terminal.display_options import ShowOption
from sana_cli.terminal.options import (
    DeviceOption,
    LocalOption,
    LoraOption,
    MaxMemoryOption,
    ModelOption,
    OfflineOption,
    QuietOption,
    SafetyOption,
    ServerOption,
    YesOption,
    refuse_empty,
)
from sana_cli.terminal.report import tell_error
from sana_cli.text import say

if TYPE_CHECKING:
    from sana_cli.commands.repl_session import Session


def _seed(text: str) -> int | None:
    """A seed for all pictures; None for a new one each time."""
    return None if text.lower() in RANDOM_SEEDS else parse_seed(text)


def repl(
    model: ModelOption = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where pictures go, or a pattern: {slug}-{seed}.png [default: your setting, else this folder]",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Compute precision [default: auto]", show_default=False),
    ] = None,
    device: DeviceOption = None,
    max_memory: MaxMemoryOption = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Denoising steps [default: the model's]")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="How strictly to follow the prompt; 1: off [default: the model's]"
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Width and height: 1024x768, or 512 for a square."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N|random",
            parser=_seed,
            help="Same seed, same picture [default: a new one each time]",
            show_default=False,
        ),
    ] = None,
    negative: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What to keep out of the picture.", show_default=False),
    ] = None,
    lora: LoraOption = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count", "-n", metavar="N", help="Pictures for each prompt [default: 1]", min=1
        ),
    ] = None,
    show: ShowOption = None,
    safety: SafetyOption = None,
    history: Annotated[
        bool,
        typer.Option("--history/--no-history", help="Remember typed lines for the next session."),
    ] = True,
    server: ServerOption = None,
    local: LocalOption = False,
    offline: OfflineOption = None,
    yes: YesOption = False,
    quiet: QuietOption = None,
) -> int:
    """Draw prompts as you type them; the model stays loaded.

    /help lists what can be set: size, steps, seed and more. Ctrl-C stops a picture, Ctrl-D leaves.
    Input can be piped: every line runs, and the exit code is that of the first failure.
    """
    refuse_empty({
        "--model": model, "--output": output, "--max-memory": max_memory, "--size": size,
        "--server": server,
    })  # fmt: skip
    from sana_cli.commands.repl_session import Session
    from sana_cli.config.generation import GenerationOptions
    from sana_cli.config.user_settings import preferences
    from sana_cli.pipeline.safety import SafetyCheck
    from sana_cli.remote.choice import chosen_server, find_server
    from sana_cli.terminal.display import Seeing
    from sana_cli.terminal.image import find_screen
    from sana_cli.terminal.progress_bars import ConsoleReporter

    found = find_server(chosen_server(server, local=local))
    chosen = preferences()
    # The terminal is asked once, before the first line: later its answer would mix with what is typed ahead.
    looks = partial(
        Seeing.plan, chosen, find=cache(find_screen), file=None, every=None, json=False, quiet=quiet,
        output=None, overwrite=False,
    )  # fmt: skip
    width, height = parse_size(size) if size else (None, None)
    typed = GenerationOptions(
        model=model, output=output, precision=precision, device=device, max_memory=max_memory,
        steps=steps, guidance_scale=guidance, width=width, height=height, seed=seed, negative_prompt=negative, count=count,
        loras=tuple(lora) if lora else None,
    )  # fmt: skip
    session = Session(
        typed.over(chosen.options),
        offline=chosen.is_offline(offline),
        yes=yes,
        safety=SafetyCheck.find(chosen.safety_model, set_by=chosen.check_source(safety))
        if chosen.is_checked(safety)
        else None,
        reporter=ConsoleReporter(quiet=chosen.is_quiet(quiet)),
        looks=looks,
        show=show,
        server=found,
    )
    if not sys.stdin.isatty():
        return _from_pipe(session)
    _from_terminal(session, keep_history=history)
    return ExitCode.OK


def _from_pipe(session: "Session") -> int:
    """Try all lines. Returns the exit code of the first failure."""
    from sana_cli.terminal.line_reader import piped_lines

    code: int = ExitCode.OK
    for line in piped_lines():
        try:
            if not session.take(line):
                break
        except SanaError as error:
            if error.code == ExitCode.INTERRUPTED:
                raise
            _tell(error)
            code = code or error.code
    return code


def _from_terminal(session: "Session", *, keep_history: bool) -> None:
    from sana_cli import __version__
    from sana_cli.terminal.line_reader import Terminal

    terminal = Terminal(partial(_candidates, session), keep_history=keep_history)
    say(
        f"sana {__version__}, {session.model}: type what to draw; /help, Ctrl-D to leave",
        err=True,
    )
    imports = Thread(target=(lambda: None) if session.draws_remotely else _import_ahead)
    imports.start()
    while True:
        try:
            line = terminal.line()
        except EOFError:
            return
        try:
            imports.join()
            if not session.take(line):
                return
        except (KeyboardInterrupt, SanaError) as error:
            if was_asked_to_end():
                raise
            if isinstance(error, SanaError):
                _tell(error)
            else:
                say("interrupted", err=True)


def _import_ahead() -> None:
    """Import torch in another thread while the first prompt is typed.
    Ctrl-C interrupts only the main thread; an interrupted import of torch could not be repeated.
    """
    with suppress(ImportError):  # raised again when a picture needs it
        import sana_cli.pipeline.saving  # noqa: F401


def _candidates(session: "Session", line: str) -> Iterator[str]:
    from sana_cli.commands.repl_session import SWITCH_VALUES
    from sana_cli.commands.repl_setters import DEFAULT, SETTERS
    from sana_cli.commands.repl_words import COMMANDS, SWITCHES
    from sana_cli.terminal.completion import complete_file

    name, space, value = line.partition(" ")
    value = value.lstrip()
    found: list[str] = []
    if not space:
        found = [command for command in COMMANDS if line and command.startswith(line)]
    elif name == "/model":
        found = complete_model(value)
    elif name in SWITCHES:
        found = [text for text in SWITCH_VALUES if text.startswith(value)]
    elif name in SETTERS:
        setter = SETTERS[name]
        values = session.schedulers if name == "/scheduler" else setter.values
        found = [text for text in (*values, DEFAULT) if text.startswith(value)]
        if setter.files:
            found += complete_file(value, setter.files)
    yield from found


def _tell(error: SanaError) -> None:
    from sana_cli.commands.repl_prompt_line import OptionError
    from sana_cli.commands.repl_words import in_commands

    same = isinstance(error, OptionError)
    tell_error(*(text if same else in_commands(text) for text in (error.message, error.hint)))
