"""Read settings that other programs store as JSON: InvokeAI, mflux, SwarmUI, Fooocus. No torch."""

import json
import re
import shlex
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from sana_cli.images.foreign_settings import (
    ForeignSettings,
    number_of,
    seed_of,
    shown,
    text_of,
    whole_of,
)

_LARGEST = 2**20  # characters that are parsed
# What programs call what we have. The first name that a picture has counts.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("positive_prompt", "prompt"),
    "negative_prompt": ("negative_prompt", "negativeprompt"),
    "seed": ("seed",),
    "steps": ("steps", "num_inference_steps"),
    "guidance": ("cfg_scale", "cfgscale", "guidance_scale", "guidance"),
    "width": ("width",),
    "height": ("height",),
    "model": ("model_weights", "model"),
}
_DREAM = {"s": "steps", "S": "seed", "C": "cfg_scale", "W": "width", "H": "height", "A": "sampler"}


def settings_of_json(text: str, size: str, program: str = "") -> ForeignSettings | None:
    """Read an object of a program's names; None where it has no prompt. `size`: of the picture.

    Without `program` the object itself must say which one wrote it.
    """
    found = _parsed(text)
    if found is None:
        return None
    program = program or _program(found)
    if isinstance(found.get("sui_image_params"), dict):
        found = found["sui_image_params"]
    if isinstance(found.get("image"), dict):  # InvokeAI before version 3
        found = {**{k: v for k, v in found.items() if k != "image"}, **found["image"]}
    return _of_names(found, size, program) if program else None


def settings_of_dream(text: str, size: str) -> ForeignSettings | None:
    """Read the command that InvokeAI 1 and 2 store: `"a prompt [not this]" -s 50 -S 1 -W 512 -H 512 -C 7.5 -A k_lms`."""
    match = re.match(r'\s*"(.*?)"((?:\s+-\S.*)?)$', text[:_LARGEST], re.DOTALL)
    if match is None:
        return None
    try:
        words = shlex.split(match[2])
    except ValueError:
        words = match[2].split()
    found: dict[str, Any] = {"prompt": match[1]}
    for option, value in pairwise(words):
        if re.fullmatch(r"-\w", option) and not re.fullmatch(r"-[A-Za-z]", value):
            found[_DREAM.get(option[1:], option)] = value
    return _of_names(found, size, "InvokeAI")


def _of_names(found: dict[str, Any], size: str, program: str) -> ForeignSettings | None:
    left = {key: value for key, value in found.items() if value not in (None, "", [], {})}
    said = {
        ours: next((left.pop(name) for name in names if name in left), None)
        for ours, names in _NAMES.items()
    }
    prompt, negative = _prompts(said["prompt"])
    if not prompt:
        return None
    width, height = whole_of(said["width"]), whole_of(said["height"])
    return ForeignSettings(
        program=program,
        prompt=prompt,
        negative_prompt=text_of(said["negative_prompt"]) or negative,
        size=f"{width}x{height}" if width and height else size,
        seed=seed_of(said["seed"]),
        steps=whole_of(said["steps"]),
        guidance=number_of(said["guidance"]),
        model=_name_of_model(said["model"]),
        others={key: shown(value) for key, value in left.items()},
    )


def _prompts(said: object) -> tuple[str, str]:
    """Return prompt and negative prompt; before version 3, InvokeAI kept a list, and negative words in brackets."""
    if isinstance(said, list):
        texts = (text_of(part.get("prompt")) for part in said if isinstance(part, dict))
        said = ", ".join(text for text in texts if text)
    elif not isinstance(said, str) or not re.search(r"\[[^\[\]]+\]\s*$", said):
        return text_of(said), ""
    negative = ", ".join(re.findall(r"\[([^\[\]]+)\]", said))
    return re.sub(r"\s*\[[^\[\]]+\]", "", said).strip(), negative


def _name_of_model(said: object) -> str:
    if isinstance(said, dict):
        said = said.get("name", said.get("model_name"))
    return text_of(said)


def _parsed(text: str) -> dict[str, Any] | None:
    if len(text) > _LARGEST or not text.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _program(found: Mapping[str, Any]) -> str:
    for key, name in (
        ("mflux_version", "mflux"),
        ("sui_image_params", "SwarmUI"),
        ("fooocus_scheme", "Fooocus"),
    ):
        if key in found:
            return name
    return "Fooocus" if str(found.get("version", "")).startswith("Fooocus") else ""
