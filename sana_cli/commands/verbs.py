"""The commands other than `sana generate`, in the order of the help."""

import typer

from sana_cli.commands import config
from sana_cli.commands.bench import bench
from sana_cli.commands.compare import compare
from sana_cli.commands.decode import decode
from sana_cli.commands.doctor import doctor
from sana_cli.commands.help import help_
from sana_cli.commands.history import history
from sana_cli.commands.info import info
from sana_cli.commands.mcp import mcp
from sana_cli.commands.models import default, models, remove
from sana_cli.commands.ps import ps
from sana_cli.commands.pull import pull
from sana_cli.commands.quantize import quantize
from sana_cli.commands.repl import repl
from sana_cli.commands.serve import serve
from sana_cli.terminal.help import Command


def register(app: typer.Typer) -> None:
    """Add them to the app."""
    for command in (
        repl, serve, mcp, ps, decode, info, history, quantize, bench, compare, doctor, pull, models, default, remove,
    ):  # fmt: skip
        app.command(cls=Command)(command)
    app.add_typer(config.app)
    app.command("help")(help_)
