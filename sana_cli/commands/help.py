"""`sana help`: the same as `--help`, for those who type it so."""

from typing import Annotated

import typer


def help_(
    ctx: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COMMAND]", help="A command, such as generate.", show_default=False
        ),
    ] = None,
) -> None:
    """Show the help of COMMAND, or of sana itself."""
    root = ctx.find_root()
    root.command.main([*(command or []), "--help"], prog_name="sana", standalone_mode=False)
