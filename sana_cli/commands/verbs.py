"""The commands, in the order of the help: each is imported when it is called, or its own help asked for.

Importing and building all of them takes longer than most of them take to refuse.
"""

import functools
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand

from sana_cli.terminal.help import Command, Grouped, Verbs


class Verb(NamedTuple):
    """A command: where it is, and the first sentence of its help."""

    place: str  # module of `sana_cli.commands`, and a function or an app in it
    help: str
    shape: type[TyperCommand] = Command


VERBS = {
    "generate": Verb(
        "generate:generate",
        "Draw pictures of PROMPT or of a file of prompts, or repeat one.",
        Grouped,
    ),
    "repl": Verb("repl:repl", "Draw prompts as you type them; the model stays loaded."),
    "serve": Verb("serve:serve", "Keep models loaded and draw for programs over HTTP."),
    "mcp": Verb("mcp:mcp", "Draw for assistants over the Model Context Protocol."),
    "ps": Verb("ps:ps", "Show running servers and the models in their memory."),
    "decode": Verb("decode:decode", "Finish a picture whose decoding failed or was interrupted."),
    "info": Verb("info:info", "Show what a model is and can draw, or how pictures were made."),
    "history": Verb(
        "history:history", "List pictures that were drawn on this machine, the newest first."
    ),
    "quantize": Verb("quantize:quantize", "Make a smaller, quantized copy of MODEL."),
    "bench": Verb("bench:bench", "Time each stage of a picture, and compare schemes and programs."),
    "compare": Verb(
        "compare:compare", "Draw the same with two models, and measure the difference."
    ),
    "doctor": Verb("doctor:doctor", "Check this machine, and say what to do about each problem."),
    "pull": Verb("pull:pull", "Download MODEL, once its size and licence are confirmed."),
    "models": Verb("models:models", "List models: known names, what is here, sizes on disk."),
    "default": Verb("models:default", "Show or choose the default model."),
    "remove": Verb("models:remove", "Delete a downloaded or quantized model from this machine."),
    "help": Verb("help:help_", "Show the help of COMMAND, or of sana itself."),
    "config": Verb("config:app", "Show and change your settings: defaults for every command."),
}


@functools.cache
def command(name: str) -> Any:
    """Import the command of a name and build it, once a process."""
    module, _, attribute = VERBS[name].place.partition(":")
    found = getattr(import_module(f"sana_cli.commands.{module}"), attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_group(found)
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name, cls=VERBS[name].shape)(found)
    return typer.main.get_command(app)


class AllVerbs(Verbs):
    """`sana` itself: lists its commands without importing them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return command(cmd_name) if cmd_name in VERBS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        limit = formatter.width - 6 - max(map(len, VERBS))
        listed = (TyperCommand(name, help=verb.help) for name, verb in VERBS.items())
        with formatter.section("Commands"):
            formatter.write_dl([(each.name, each.get_short_help_str(limit)) for each in listed])
