"""Typer options of what people see of pictures: in the terminal, while they are drawn, side by side."""

from typing import Annotated

import typer

ShowOption = Annotated[
    bool | None,
    typer.Option(
        "--show/--no-show",
        help="Show pictures in the terminal [default: if it has sixels or kitty's protocol]",
        show_default=False,
    ),
]
GridOption = Annotated[
    bool, typer.Option("--grid", help="Also save a sheet with all pictures side by side.")
]
PreviewOption = Annotated[
    bool | None,
    typer.Option(
        "--preview/--no-preview",
        help="Show unfinished pictures in the terminal.",
        show_default=False,
    ),
]
PreviewFileOption = Annotated[
    str | None,
    typer.Option(
        "--preview-file",
        metavar="FILE.png",
        help="Keep the unfinished picture in this file.",
        show_default=False,
    ),
]
PreviewEveryOption = Annotated[
    int | None,
    typer.Option(
        "--preview-every",
        metavar="STEPS",
        help="Steps between previews [default: a tenth of all steps]",
        show_default=False,
    ),
]
