"""Check the settings that a picture's file carries: each key by itself, then keys that contradict each other. No torch.

Another program, or a hand, may have changed any of them. What depends on the model is checked where the model is known.
"""

import re
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from sana_cli.config.choices import (
    MAX_PROMPT,
    MAX_SIDE,
    Decode,
    Precision,
    decode_mode,
    is_drawable,
    parse_interval,
    parse_pag,
    parse_size,
)
from sana_cli.config.generation import FIELDS, FILES
from sana_cli.config.published import aspect_ratio_bins, published_sizes
from sana_cli.errors import SanaError, usage_error
from sana_cli.request.control import LARGEST_SCALE
from sana_cli.request.init_image import nearest_multiple
from sana_cli.text import shortened

Settings = Mapping[str, Any]
_LARGEST = 2**64  # of the numbers in a picture: seeds
_MOST_BLOCKS = 1000  # of a transformer, for the layer of `pag`; the model has fewer
_NEEDED = ("prompt", "seed", "size")
# Keys of which one says nothing without the other.
_COMPANIONS = {
    **{f"{kind}_digest": kind for kind in FILES}, **{kind: f"{kind}_digest" for kind in FILES},
    "mask": "image", "strength": "image", "upscale_strength": "upscale", "upscaled_from": "upscale",
    "control_type": "control", "control_scale": "control", "control_order": "control",
    "control_hed_digest": "control",
    "lora_digests": "loras", "loras": "lora_digests", "decoder_digest": "decoder",
}  # fmt: skip


def require_sensible(settings: Settings, name: str) -> None:
    """Check the settings of the file `name`. Raises SanaError (usage), which names the file and the key."""
    if problem := problem_of(settings):
        raise usage_error(
            f"{name} {problem}",
            "another program has changed it; give the settings yourself, without --from",
        )


def problem_of(settings: Settings) -> str:
    """Say which setting is wrong, and how, as what is said of their file; "" for sensible ones."""
    for key in _NEEDED:
        if settings.get(key) is None:
            return f"carries no {key}"
    for key, is_sensible in _CHECKS.items():
        value = settings.get(key)
        if value is not None and not is_sensible(value):
            return f"carries {_shown(settings, key)}, which makes no sense"
    for key, other in _contradictions(settings):
        why = _shown(settings, other) if settings.get(other) is not None else f"no {other}"
        return f"carries {_shown(settings, key)}, but {why}, which does not fit"
    return ""


def decode_of(settings: Settings) -> tuple[str, int | None]:
    """Read how latents became pixels: the mode, and the side of its tiles in pixels."""
    mode, _, tile = str(settings.get("decode") or "auto").partition(" ")
    return mode, int(tile) if tile else None


def was_drawn_in_bins(settings: Settings) -> bool:
    """Return whether the picture was drawn at a published size, and resized. One that was only enlarged was not."""
    size, drawn = settings["size"], settings.get("drawn_size")
    if drawn is not None and parse_size(drawn) != parse_size(size):
        return True
    only_enlarged = settings.get("image") is not None and settings.get("strength") is None
    if not settings.get("upscaled_from") or only_enlarged:
        return False
    return any(side % 32 for side in parse_size(settings["upscaled_from"]))


def _shown(settings: Settings, key: str) -> str:
    return f"{key} = {shortened(repr(settings[key]), 60)}"


# -- one key ---------------------------------------------------------------------------------------


def _is_text(value: object) -> bool:
    return (
        isinstance(value, str)
        and "\0" not in value
        and not any("\ud800" <= c <= "\udfff" for c in value)
    )


def _is_number(value: object, low: float = -_LARGEST, high: float = _LARGEST) -> bool:
    """Check a number from JSON, which may be NaN, infinite or too large for a float."""
    return type(value) in (int, float) and low <= value <= high  # type: ignore[operator]


def _is_share(value: object) -> bool:
    return _is_number(value, 0, 1) and value != 0


def _are(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, list) and all(map(check, values))


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{8,64}", value) is not None


def _is_prompt(value: object) -> bool:
    return _is_negative(value) and bool(str(value).strip())


def _is_negative(value: object) -> bool:
    return _is_text(value) and len(str(value)) <= MAX_PROMPT


def _is_readable(read: Callable[[str], object]) -> Callable[[Any], bool]:
    def is_readable(value: object) -> bool:
        try:
            return isinstance(value, str) and read(value) is not False
        except SanaError:
            return False

    return is_readable


def _read_size(text: str) -> bool:
    return all(1 <= side <= MAX_SIDE for side in parse_size(text))


def _read_drawn_size(text: str) -> bool:
    return is_drawable(*parse_size(text))


def _read_precision(text: str) -> bool:
    return all(part in list(Precision) for part in text.split("+"))


def _read_decode(text: str) -> object:
    mode, _, tile = text.partition(" ")
    if mode not in list(Decode) or (tile and not re.fullmatch(r"[0-9]{1,9}", tile)):
        return False
    return decode_mode(Decode(mode), int(tile) if tile else None)


def _check_of_option(name: str) -> Callable[[Any], bool]:
    """Check a value by its option's kind, choices and limits."""
    field = FIELDS[name]
    limits, choices = field.option.limits, field.option.choices

    def is_sensible(value: object) -> bool:
        if type(value) not in field.json_types:
            return False
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _is_number(value, *limits) if limits else _is_number(value)
        return not isinstance(value, str) or (
            _is_text(value) and (not choices or value in list(choices))
        )

    return is_sensible


_CHECKS: dict[str, Callable[[Any], bool]] = {
    **{f.option.picture: _check_of_option(f.name) for f in FIELDS.values() if f.option.picture},
    "prompt": _is_prompt, "template": _is_prompt, "negative_prompt": _is_negative,
    "guidance_interval": _is_readable(parse_interval),
    "pag": _is_readable(lambda text: parse_pag(text, _MOST_BLOCKS)),
    "strength": _is_share, "upscale_strength": _is_share,
    "control_scale": lambda value: _is_number(value, 0, LARGEST_SCALE),
    "loras": _are(_is_text), "lora_digests": _are(_is_digest),
    "size": _is_readable(_read_size), "upscaled_from": _is_readable(_read_size),
    "drawn_size": _is_readable(_read_drawn_size),
    "precision": _is_readable(_read_precision), "decode": _is_readable(_read_decode),
    "branches": lambda value: value == "apart",
    "flow_shift": lambda value: _is_number(value) and isfinite(value) and value > 0,
    "revision": _is_text, "version": _is_text,
    **dict.fromkeys(
        (
            "image_digest", "mask_digest", "control_digest", "control_hed_digest", "decoder_digest",
            "model_digest", "model_hash",
        ),
        lambda value: value == "" or _is_digest(value),
    ),
}  # fmt: skip


# -- several keys ----------------------------------------------------------------------------------


def _contradictions(settings: Settings) -> list[tuple[str, str]]:
    """List keys that do not fit others, each with the other one."""
    said = {key for key, value in settings.items() if value is not None}
    found = [
        (key, other) for key, other in _COMPANIONS.items() if key in said and other not in said
    ]
    if "upscale" in said and settings["upscale"] != 1 and "upscaled_from" not in said:
        found.append(("upscale", "upscaled_from"))
    if found:
        return found
    if settings.get("cache") and settings.get("pag"):
        found.append(("pag", "cache"))
    if len(settings.get("loras") or ()) != len(settings.get("lora_digests") or ()):
        found.append(("lora_digests", "loras"))
    if not _sizes_fit(settings):
        found.append(("size", "upscaled_from"))
    if not _drawing_fits(settings):
        found.append(("drawn_size", "size"))
    return found


def _sizes_fit(settings: Settings) -> bool:
    """Check that an enlarged picture is as many times larger as it says: exactly, or in multiples of 32."""
    if not settings.get("upscaled_from"):
        return True
    sides = [side * settings["upscale"] for side in parse_size(settings["upscaled_from"])]
    exact, whole = tuple(map(round, sides)), tuple(map(nearest_multiple, sides))
    return parse_size(settings["size"]) in (exact, whole)


def _drawing_fits(settings: Settings) -> bool:
    """Check that a picture of this size was drawn in this one: the same, in multiples of 32, or a published one."""
    size, drawn = (
        parse_size(settings["size"]),
        parse_size(settings.get("drawn_size") or settings["size"]),
    )
    if settings.get("upscaled_from"):
        return True  # drawn in multiples of a published size
    if drawn == size:
        return all(side % 32 == 0 for side in size)
    shape = size[1] / size[0]
    return any(
        drawn[::-1] == table[min(table, key=lambda ratio: abs(ratio - shape))]
        for table in map(aspect_ratio_bins, published_sizes())
    )
