"""Commands of `sana repl` that change what is drawn: how a value is read, by the parsers of `sana generate`'s options."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from sana_cli.checkpoints.lora_file import parse_lora
from sana_cli.config.choices import RANDOM_SEEDS, ControlType, parse_size, split_scale
from sana_cli.config.generation import FIELDS, Field, GenerationOptions
from sana_cli.config.other_values import did_you_mean_choice
from sana_cli.config.user_settings import SETTINGS
from sana_cli.files import local_path

DEFAULT = "default"  # the value that takes a setting back
ON, OFF = "on", "off"
_MOST_DIGITS = 100  # more are no seed, and Python reads no more than some thousands
CONTROL = ("control", "control_scale", "control_type", "control_order")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setter:
    """A command that changes one setting.

    `parse` maps a value and the current options to changed options. Raises ValueError, which says what it should be.
    """

    argument: str
    help: str
    parse: Callable[[str, GenerationOptions], dict[str, Any]]
    keys: tuple[str, ...]  # fields of `GenerationOptions` that `default` resets; its own first
    values: tuple[str, ...] = ()  # offered when Tab is pressed
    files: Literal["", "pictures", "loras"] = ""  # file names that are offered, too


def _plain(field: Field) -> Setter:
    """The command of an option that a plain value sets."""
    choices = tuple(field.option.choices or ())
    return Setter(
        argument="|".join(choices) or ("N" if field.value == "whole number" else "X"),
        help=field.option.repl,
        parse=lambda text, now: {field.name: SETTINGS[field.word].parse(text)},
        keys=(field.name,),
        values=choices,
    )


def _count(text: str, now: GenerationOptions) -> dict[str, Any]:
    return {"count": SETTINGS["count"].parse(text)}


def _seed(text: str, now: GenerationOptions) -> dict[str, Any]:
    if text.lower() in RANDOM_SEEDS:
        return {"seed": None}
    if not text.isdecimal() or len(text) > _MOST_DIGITS:
        raise ValueError(
            "should be a whole number, last for that of the last picture, or random for a new one each time"
        )
    return {"seed": int(text)}


def _size(text: str, now: GenerationOptions) -> dict[str, Any]:
    if ":" in text:
        return {"width": None, "height": None, "aspect": text}
    width, height = parse_size(text)
    return {"width": width, "height": height, "aspect": None}


def _negative(text: str, now: GenerationOptions) -> dict[str, Any]:
    return {"negative_prompt": None if text == OFF else text}


def _image(text: str, now: GenerationOptions) -> dict[str, Any]:
    """Parse a file name, which may hold blanks, and an optional strength after it."""
    if text == OFF:
        return {"image": None, "strength": None, "mask": None}  # a mask is of a picture
    text = _unquoted(text)
    file, _, number = text.rpartition(" ")
    if file and not local_path(text).is_file():
        with suppress(ValueError):
            return {"image": file.rstrip(), "strength": float(number)}
        if local_path(file.rstrip()).is_file():
            raise ValueError("should be a file, and after it at most a number, its strength")
    return {"image": text, "strength": None}


def _control(text: str, now: GenerationOptions) -> dict[str, Any]:
    """Parse a file name with a scale after a colon, and an optional type after a blank."""
    if text == OFF:
        return dict.fromkeys(CONTROL)
    file, _, kind = text.rpartition(" ")
    if file and kind in list(ControlType):
        return {"control": _unquoted(file.rstrip()), "control_scale": None, "control_type": kind}
    if file and not _is_control_file(text) and _is_control_file(file.rstrip()):
        meant = did_you_mean_choice(kind, list(ControlType))
        raise ValueError(
            f"should be a file, and after it at most a type: {', '.join(ControlType)}{meant}"
        )
    return {"control": _unquoted(text), "control_scale": None}


def _is_control_file(text: str) -> bool:
    return local_path(split_scale(_unquoted(text))[0]).is_file()


def _wildcards(text: str, now: GenerationOptions) -> dict[str, Any]:
    if text not in (ON, OFF):
        raise ValueError("should be on or off")
    return {"wildcards": text == ON}


def _mask(text: str, now: GenerationOptions) -> dict[str, Any]:
    return {"mask": None if text == OFF else _unquoted(text)}


def _lora(text: str, now: GenerationOptions) -> dict[str, Any]:
    """Add a LoRA, or change the scale of one that is there."""
    if text == OFF:
        return {"loras": None}
    text = _unquoted(text)
    others = [lora for lora in now.loras or () if _lora_path(lora) != _lora_path(text)]
    return {"loras": (*others, text)}


def _lora_path(text: str) -> object:
    path, _ = parse_lora(text)
    return local_path(path)


def _unquoted(text: str) -> str:
    """Remove the quotes that terminals put around the name of a dragged file."""
    match = re.fullmatch(r"(['\"])(.+)\1(.*)", text)
    return match[2] + match[3] if match else text


SETTERS = {
    "/seed": Setter(argument="N|last|random", help="same seed, same picture", parse=_seed, keys=("seed",), values=("last", "random")),
    "/size": Setter(
        argument="WxH|W:H", help="in pixels, or only the shape",
        parse=_size, keys=("width", "height", "aspect"),
    ),
    "/count": Setter(argument="N", help="pictures for each prompt", parse=_count, keys=("count",)),
    **{f"/{field.word}": _plain(field) for field in FIELDS.values() if field.option.repl},
    "/negative": Setter(
        argument="TEXT|off", help="what to keep out of the picture",
        parse=_negative, keys=("negative_prompt",), values=(OFF,),
    ),
    "/image": Setter(
        argument="FILE [STRENGTH]|off", help="picture to start from, and how much to redraw",
        parse=_image, keys=("image", "strength", "mask"), values=(OFF,), files="pictures",
    ),
    "/mask": Setter(
        argument="FILE|off", help="redraw only what is white in this picture",
        parse=_mask, keys=("mask",), values=(OFF,), files="pictures",
    ),
    "/control": Setter(
        argument="FILE[:SCALE] [TYPE]|off", help="picture whose lines the drawing follows, and how to find them",
        parse=_control, keys=CONTROL, values=(OFF,), files="pictures",
    ),
    "/wildcards": Setter(
        argument="on|off", help="choose by the seed in prompts: {red|green}, __animals__",
        parse=_wildcards, keys=("wildcards",), values=(ON, OFF),
    ),
    "/lora": Setter(
        argument="FILE[:SCALE]|off", help="one more LoRA, or another scale for it; off: none at all",
        parse=_lora, keys=("loras",), values=(OFF,), files="loras",
    ),
    "/output": Setter(
        argument="FOLDER|PATTERN", help="where pictures go",
        parse=lambda text, now: {"output": text}, keys=("output",),
    ),
}  # fmt: skip
