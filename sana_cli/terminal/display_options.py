"""Typer options of what people see of pictures: in the terminal, while they are drawn, side by side."""

from typing import Annotated

import typer

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
PreviewOption = Annotated[
    bool | None,
    typer.Option(
        "--preview/--no-preview",
        help="Show pictures in the terminal while they are drawn, too.",
        show_default=False,
    ),
]
PreviewFileOption = Annotated[
    str | None,
    typer.Option(
        "--preview-file",
        metavar="FILE.png",
        help="Keep what a picture looks like so far in a file.",
        show_default=False,
    ),
]
PreviewEveryOption = Annotated[
    int | None,
    typer.Option(
        "--preview-every",
        metavar="STEPS",
        help="Steps from one preview to the next [default: a tenth of all]",
        show_default=False,
    ),
]
