"""The tree of commands, as Typer knows it. Apart from `cli`: plain calls of `sana generate` do without Typer."""

import functools
from typing import Annotated

import typer

from sana_cli import __version__
from sana_cli.commands.verbs import AllVerbs
from sana_cli.text import say


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"sana {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            help="Log what happens; twice: libraries too.",
            show_default=False,
            metavar="",
        ),
    ] = 0,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks of expected errors too.")
    ] = False,
) -> None:
    del debug  # `cli.main` reads it, since errors are its business
    from sana_cli.terminal.logs import set_up

    set_up(verbose)


def make_app() -> typer.Typer:
    """A new tree: whoever writes documents changes it."""
    app = typer.Typer(
        name="sana",
        cls=AllVerbs,
        help="Draw pictures with Sana on the machine you already have.",
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,  # help drawn by Rich costs 100 ms
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    return app


built = functools.cache(lambda: typer.main.get_command(make_app()))  # once a process
