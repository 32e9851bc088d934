"""`sana history`: what was drawn on this machine, found again by prompt, model, seed and date."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sana_cli.commands.remember import picture_index
from sana_cli.errors import contradiction
from sana_cli.terminal.options import JsonOption
from sana_cli.text import columns, counted, print_json, say, shortened

if TYPE_CHECKING:
    from sana_cli.images.picture_index import Remembered


def history(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", help="Words of the prompt.", show_default=False),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="NAME", help="Part of a model's name.", show_default=False
        ),
    ] = "",
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of the picture.", show_default=False)
    ] = None,
    since: Annotated[
        str,
        typer.Option(
            metavar="DATE",
            help="From this day, month or year on (UTC): 2026-11-29.",
            show_default=False,
        ),
    ] = "",
    until: Annotated[
        str,
        typer.Option(
            metavar="DATE",
            help="Until the end of this day, month or year (UTC).",
            show_default=False,
        ),
    ] = "",
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, help="Pictures to list.")
    ] = 20,
    show: Annotated[
        bool, typer.Option("--show", help="Also show the pictures in the terminal.")
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Rebuild the index from the pictures in the folders used so far, and in FOLDER.",
        ),
    ] = False,
    folder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="Also read this folder with --rebuild; repeat for several.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List pictures that were drawn on this machine, the newest first."""
    if show and json:
        raise contradiction("--show", "--json")
    if rebuild and (words or model or seed is not None or since or until or show):
        raise contradiction("--rebuild", "a search")
    if folder and not rebuild:
        raise contradiction("--folder", "a search")
    from sana_cli.errors import require, usage_error
    from sana_cli.files import local_path
    from sana_cli.images.picture_index import require_date
    from sana_cli.request.options import is_text

    for text in (*(words or ()), model):
        require(is_text(text), f"{text!r} is not valid text", "write it in UTF-8")
    index = picture_index()
    if rebuild:
        folders = [local_path(each) for each in folder or ()]
        for place in folders:
            if not place.is_dir():
                what = "is not a folder" if place.exists() else "is not there"
                raise usage_error(f"{place} {what}", "name a folder of pictures: --folder FOLDER")
        count = index.rebuild(folders)
        say(f"{counted(count, 'picture')} in {index.file}", err=json)
    dates = {
        name: require_date(text, f"--{name}") if text else ""
        for name, text in (("since", since), ("until", until))
    }
    found = index.find(words or (), model=model, seed=seed, limit=limit, **dates)
    if json:
        print_json({"index": str(index.file), "pictures": [_document(each) for each in found]})
        return
    if not found and not rebuild:
        say(
            "no such picture is remembered; `sana history --rebuild --folder FOLDER` adds those of a folder",
            err=True,
        )
    shown = [] if rebuild else found
    for each, line in zip(shown, columns([_cells(each) for each in shown]), strict=True):
        say(line)
        if show and each.is_there:
            from sana_cli.terminal.display import show_picture

            show = show_picture(each.path)  # False: no terminal for it; one note is enough


def _document(picture: "Remembered") -> dict[str, Any]:
    return {
        "number": picture.number, "picture": str(picture.path), "drawn_at": picture.drawn_at,
        "exists": picture.is_there, "settings": dict(picture.settings),
    }  # fmt: skip


def _cells(picture: "Remembered") -> tuple[str, ...]:
    """Write the columns of a line of the list: number, date, seed, and the rest, which is not aligned."""
    settings, gone = picture.settings, "" if picture.is_there else "  (gone)"
    prompt = shortened(str(settings.get("prompt", "")), 60)
    return (
        f"#{picture.number}", picture.drawn_at[:16].replace("T", " "), f"seed {settings.get('seed')}",
        f"{settings.get('model')}  {prompt}  {picture.path}{gone}",
    )  # fmt: skip
