"""`sana info`: what a model is and needs, or how a picture was made."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sana_cli.commands.picture_folder import documents_of, line_of, pictures_in
from sana_cli.errors import contradiction
from sana_cli.terminal.completion import complete_model
from sana_cli.terminal.display import show_picture
from sana_cli.terminal.options import JsonOption
from sana_cli.text import print_json, say, say_command, shortened, yes_or_no

# By suffix, those that cannot be read too: their errors say what helps.
_PICTURES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".avif",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".heic",
    ".heif",
    ".jxl",
    ".jp2",
    ".svg",
    ".psd",
    ".eps",
)


def info(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|FOLDER|PICTURE",
            help="A model's name or folder, a picture, or a folder of pictures.",
            autocompletion=complete_model,
        ),
    ],
    show: Annotated[
        bool, typer.Option("--show", help="Also show the picture in the terminal.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show what a model is and can draw, or how pictures were made."""
    if show and json:
        raise contradiction("--show", "--json")
    from sana_cli.checkpoints.model_names import require_name
    from sana_cli.files import local_path

    require_name(subject)
    path = local_path(subject)
    if path.is_dir() and (pictures := pictures_in(path, _PICTURES)):
        _list_pictures(path, pictures, json=json)
        if show:
            show_picture(None)
        return
    is_picture = path.suffix.lower() in _PICTURES and not path.is_dir()
    if is_picture:
        from sana_cli.commands.picture_facts import facts_of

        found = facts_of(path)
        document, facts, label, command = found.document, found.facts, found.label, found.command
    else:
        from sana_cli.commands.model_facts import for_people, model_document

        document = model_document(subject)
        facts, label, command = for_people(document), "", []
    if json:
        print_json(document)
    else:
        say(*_lines(facts))
        if command:
            say_command(label, command)
    if show:
        show_picture(path if is_picture else None)


def _list_pictures(folder: Path, pictures: list[Path], *, json: bool) -> None:
    if json:
        print_json({"folder": str(folder), "pictures": list(documents_of(pictures))})
        return
    for document in documents_of(pictures):
        say(line_of(document))


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list | tuple):
            lines.append(f"{indent}{key}: {', '.join(shortened(str(each)) for each in value)}")
        else:
            lines.append(f"{indent}{shortened(str(key))}: {shortened(yes_or_no(value))}")
    return lines
