"""Options of what people see beside the files: pictures in the terminal, and sheets of several."""

from typing import TYPE_CHECKING, Annotated

import typer

from sana_cli.errors import ExitCode, SanaError

if TYPE_CHECKING:
    from pathlib import Path

    from sana_cli.show import Screen
    from sana_cli.user_config import Preferences

ShowOption = Annotated[
    bool | None,
    typer.Option(
        "--show/--no-show",
        help="Show pictures in the terminal [default: in one that has sixels or kitty's protocol]",
        show_default=False,
    ),
]
GridOption = Annotated[
    bool, typer.Option("--grid", help="One more file, with all pictures side by side.")
]
NO_SCREEN = "--show has no effect: this is no terminal that shows pictures"


def screen_for(
    show: bool | None, chosen: "Preferences", *, json: bool, quiet: bool | None
) -> "Screen | None":
    """Where finished pictures are shown, if anywhere. `show` and `quiet` are None where nobody typed them."""
    if show and (json or quiet):
        raise show_or("--json" if json else "--quiet")
    wanted = chosen.show if show is None else show
    mute_by_setting = quiet is None and chosen.quiet and show is None
    if wanted is False or json or quiet or mute_by_setting:
        return None
    from sana_cli.show import find_screen

    screen = find_screen()
    if screen is not None and screen.graphics == "blocks" and not wanted:
        return None
    return screen


def show_or(mute: str) -> SanaError:
    return SanaError(
        f"give --show or {mute}, not both", hint=f"leave {mute} away", code=ExitCode.USAGE
    )


def show_picture(path: "Path | None") -> None:
    """What `--show` asks for of a command that makes no pictures; None where there is none to show."""
    from sana_cli.show import find_screen

    screen = find_screen() if path is not None else None
    if path is None:
        typer.echo("note: --show has no effect: it is for pictures", err=True)
    elif screen is None:
        typer.echo(f"note: {NO_SCREEN}", err=True)
    else:
        screen.show_file(path)
