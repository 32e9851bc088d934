"""Describe how a picture was made, for people and as a document: one of ours, a preview, or another
program's.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sana_cli.errors import SanaError


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """The facts of a picture that `sana info` shows."""

    document: dict[str, Any]
    facts: dict[str, Any]  # for people
    label: str = "again"  # of the command
    command: list[str] = field(default_factory=list)  # words; none where nothing can be drawn again


def facts_of(path: Path) -> PictureFacts:
    """Read a picture file's facts. Raises SanaError if it is no picture, or carries no settings."""
    from sana_cli.images.picture_file import SHEET_KEY, read_foreign_settings, read_settings
    from sana_cli.images.png import preview_state
    from sana_cli.request.foreign_options import command_words, options_of_foreign

    document: dict[str, Any] = {"picture": str(path), "settings": {}}
    state = preview_state(path)
    if state is not None:
        return PictureFacts(
            document={**document, "preview": state},
            facts={"preview": f"{state}; the finished picture carries the settings"},
        )
    foreign = read_foreign_settings(path)
    if foreign is None:
        settings = read_settings(path)
        repeats = SHEET_KEY not in settings and _is_possible(settings)
        command = _command(settings, path) if repeats else []
        return PictureFacts(
            document={**document, "settings": settings}, facts=_given(settings), command=command
        )
    found = options_of_foreign(foreign, str(path))
    told = {
        "prompt": foreign.prompt,
        "negative_prompt": foreign.negative_prompt,
        "size": foreign.size,
    }
    numbers = {
        "model": foreign.model,
        "seed": foreign.seed,
        "steps": foreign.steps,
        "guidance": foreign.guidance,
    }
    others = {**numbers, "others": dict(foreign.others)}
    facts = {
        "drawn by": foreign.program,
        **{key: value for key, value in {**told, **numbers}.items() if value not in (None, "")},
        **({"its settings": foreign.others} if foreign.others else {}),
    }
    return PictureFacts(
        document={**document, "foreign": {"program": foreign.program, **told, **others}},
        facts=facts,
        label="something like it",
        command=command_words(found),
    )


def _is_possible(settings: dict[str, Any]) -> bool:
    """Return whether a command takes these numbers and texts: a file may have been edited."""
    from sana_cli.config.generation import FIELDS
    from sana_cli.request.options import is_text

    texts = [value for value in settings.values() if isinstance(value, str)]
    if not all(map(is_text, texts)):  # no shell passes on NUL or half a character
        return False

    limited = [
        (f.option.limits, settings.get(f.option.picture))
        for f in FIELDS.values()
        if f.option.picture
    ]
    return all(
        limits is None or not isinstance(value, int | float) or limits[0] <= value <= limits[1]
        for limits, value in limited
    )


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that are not empty, with unknown names apart: they must not pass for ours."""
    said = {key: value for key, value in settings.items() if value != ""}
    ours = {key: value for key, value in said.items() if key.isidentifier() and key != "again"}
    others = {key: value for key, value in said.items() if key not in ours}
    return {**ours, **({"other settings": others} if others else {})}


def _opening(model: str) -> str:
    """Return what opens a picture's model. Pictures store a folder's name; its place is the user's to fill in."""
    from sana_cli.checkpoints.model_names import BUILTIN_MODELS, lasting_name, place_of
    from sana_cli.config.user_settings import preferences

    if model in BUILTIN_MODELS:
        return model
    try:
        place = place_of(model, preferences().options.model)
        lasting_name(place)
    except SanaError:
        return f"PATH/TO/{model}"
    return place


def _command(settings: dict[str, Any], path: Path) -> list[str]:
    """The words of the command that draws a picture once more, into a file of the same format."""
    from sana_cli.images.formats import format_of

    options = {
        "model": "--model", "negative_prompt": "--negative", "size": "--size", "steps": "--steps",
        "guidance": "--guidance", "guidance_interval": "--guidance-interval", "cache": "--cache",
        "pag": "--pag",
        "scheduler": "--scheduler", "decoder": "--decoder", "seed": "--seed", "quality": "--quality",
        "image": "--image", "strength": "--strength", "mask": "--mask",
        "upscale": "--upscale", "upscale_strength": "--upscale-strength",
        "control": "--control", "control_scale": "--control-scale", "control_type": "--control-type",
        "control_order": "--control-order",
    }  # fmt: skip
    prompt = str(settings.get("prompt", ""))
    words = ["sana", "generate", *([] if prompt.startswith("-") else [prompt])]
    said = settings | ({"size": settings["upscaled_from"]} if "upscaled_from" in settings else {})
    said |= {"model": _opening(str(settings["model"]))} if "model" in settings else {}
    for key, option in options.items():
        if key in said:
            words += [option, str(said[key])]
    loras = settings.get("loras")
    for lora in loras if isinstance(loras, list) else ():
        words += ["--lora", str(lora)]
    if settings.get("drawn_size", settings.get("size")) != settings.get("size"):
        words.append("--bins")
    if settings.get("branches") == "apart":
        words += ["--plan", "branches"]
    if settings.get("decode"):  # "exact-tiles 512"
        mode, _, tile = str(settings["decode"]).partition(" ")
        words += ["--decode", mode, "--tile", tile]
    if settings.get("backend", "auto") != "auto":
        words += ["--backend", str(settings["backend"])]
    if (format := format_of(path)) in ("JPEG", "WEBP"):
        words += ["--format", "jpg" if format == "JPEG" else "webp"]
    words.append("--enhance" if settings.get("enhance") else "--no-enhance")
    if re.search(r"[{}]|__", prompt):  # a setting could take them for choices
        words.append("--no-wildcards")
    if prompt.startswith("-"):  # only after "--" it is no option
        words += ["--", prompt]
    return words
