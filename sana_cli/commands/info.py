"""`sana info`: what a model is and needs, or how a picture was made."""

from typing import Annotated, Any

import typer

from sana_cli.commands.completion import complete_model
from sana_cli.commands.seeing import show_picture
from sana_cli.errors import usage_error
from sana_cli.options import JsonOption, contradiction
from sana_cli.text import print_json, say, say_command, shortened

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")  # by suffix; only PNGs of ours carry settings


def info(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|FOLDER|PICTURE",
            help="A model's name or folder, or a PNG.",
            autocompletion=complete_model,
        ),
    ],
    show: Annotated[
        bool, typer.Option("--show", help="Show the picture, too, in the terminal.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show what a model is and can draw, or how a picture was made."""
    if show and json:
        raise contradiction("--show", "--json")
    from sana_cli.checkpoint import local_path

    path = local_path(subject)
    is_picture = path.suffix.lower() in _PICTURES and not path.is_dir()
    if is_picture and not path.exists():
        raise usage_error(f"no such picture: {path}", "check the path")
    again: list[str] = []
    if is_picture:
        from sana_cli.image_io import SHEET_KEY, read_settings

        settings = read_settings(path)
        document: dict[str, Any] = {"picture": str(path), "settings": settings}
        facts = _told(settings)
        if SHEET_KEY not in settings:
            again = _command(settings)
    else:
        from sana_cli.commands.model_facts import for_people, model_document

        document = model_document(subject)
        facts = for_people(document)
    if json:
        print_json(document)
    else:
        say(*_lines(facts))
        if again:
            say_command("again", again)
    if show:
        show_picture(path if is_picture else None)


def _told(settings: dict[str, Any]) -> dict[str, Any]:
    """What is not empty; names that no version of ours has written stand apart, so that none passes for a line of ours."""
    said = {key: value for key, value in settings.items() if value != ""}
    ours = {key: value for key, value in said.items() if key.isidentifier() and key != "again"}
    others = {key: value for key, value in said.items() if key not in ours}
    return {**ours, **({"other settings": others} if others else {})}


def _command(settings: dict[str, Any]) -> list[str]:
    """The words of the command that draws a picture once more."""
    options = {
        "model": "--model", "negative_prompt": "--negative", "size": "--size", "steps": "--steps",
        "guidance": "--guidance", "guidance_interval": "--guidance-interval", "cache": "--cache",
        "scheduler": "--scheduler", "seed": "--seed",
        "image": "--image", "strength": "--strength", "mask": "--mask",
    }  # fmt: skip
    prompt = str(settings.get("prompt", ""))
    words = ["sana", "generate", *([] if prompt.startswith("-") else [prompt])]
    for key, option in options.items():
        if key in settings:
            words += [option, str(settings[key])]
    loras = settings.get("loras")
    for lora in loras if isinstance(loras, list) else ():
        words += ["--lora", str(lora)]
    if settings.get("drawn_size") != settings.get("size"):
        words.append("--bins")
    if settings.get("branches") == "apart":
        words += ["--plan", "branches"]
    if settings.get("decode"):  # "exact-tiles 512"
        mode, _, tile = str(settings["decode"]).partition(" ")
        words += ["--decode", mode, "--tile", tile]
    if settings.get("backend", "auto") != "auto":
        words += ["--backend", str(settings["backend"])]
    words.append("--enhance" if settings.get("enhance") else "--no-enhance")
    if prompt.startswith("-"):  # only after "--" it is no option
        words += ["--", prompt]
    return words


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list | tuple):
            lines.append(f"{indent}{key}: {shortened(', '.join(map(str, value)))}")
        else:
            lines.append(f"{indent}{shortened(str(key))}: {shortened(str(value))}")
    return lines
