"""Options from where they are kept: the settings of a picture become `GenerationOptions`. No torch."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quant.installed import LIBRARIES, LIBRARY_PACKAGES, is_installed
from sana_cli.checkpoints.lora_file import parse_lora
from sana_cli.config.choices import (
    Decode,
    Precision,
    parse_interval,
    parse_size,
)
from sana_cli.config.generation import FIELDS, FILES, GenerationOptions
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.files import local_path
from sana_cli.system.packages import pip_install
from sana_cli.text import shortened

_LARGEST = 2**64  # of the numbers in a picture: seeds
# What a picture does not carry where it is usual. A user's setting does not change what is repeated.
_USUAL = {
    "negative_prompt": "",
    "guidance_interval": "0-1",
    "cache": 0.0,
    "pag": "0",
    "decoder": "full",
    "upscale": 1.0,
}


def options_of_picture(settings: Mapping[str, Any], name: str) -> GenerationOptions:
    """Build the options that repeat a picture from the settings in its file `name`. Raises SanaError for unusable ones."""
    said: dict[str, Any] = {}
    for field in FIELDS.values():
        if key := field.option.picture:
            value = (
                _texts(settings, key, name)
                if field.value == "texts"
                else _said(settings, key, field.json_types, name)
            )
            if value and field.option.choices and value not in list(field.option.choices):
                raise _senseless(name, key, value)
            said[field.name] = _USUAL.get(field.name) if value is None else value
    drawn, size = settings.get("drawn_size"), settings.get("size")
    width, height = _sides(
        settings.get("upscaled_from") or size if said["upscale"] != 1 else size, name
    )
    mode, _, tile = str(settings.get("decode") or "").partition(" ")
    precision = str(settings.get("precision") or "auto").partition("+")[0]
    branches = _said(settings, "branches", (str,), name)
    for key, value, known in (
        ("decode", mode, Decode), ("precision", precision, Precision), ("branches", branches, ("apart",)),
    ):  # fmt: skip
        if value and value not in list(known):
            raise _senseless(name, key, value)
    try:
        parse_interval(said["guidance_interval"])
    except SanaError as error:
        raise _senseless(name, "guidance_interval", said["guidance_interval"]) from error
    if tile and not re.fullmatch(r"[0-9]{1,9}", tile):
        raise _senseless(name, "decode", settings["decode"])
    return GenerationOptions(
        **said,
        width=width,
        height=height,
        bins=drawn != size or _drew_in_bins(said, width, height),
        precision=precision,
        decode=mode or "auto",
        tile=int(tile) if tile else None,
        branches_apart=branches == "apart",
        wildcards=False,  # its prompt is what was chosen
        sources=dict.fromkeys(
            ("model", "device", "precision", "loras", "decoder", "pag", *FILES), name
        ),
    )


def _drew_in_bins(said: Mapping[str, Any], width: int, height: int) -> bool:
    """Check whether a first drawing was resized, though the enlarged one was not. An original may have any size."""
    only_enlarged = said["image"] is not None and said["strength"] is None
    return said["upscale"] != 1 and not only_enlarged and (width % 32 or height % 32) != 0


def lora_paths(texts: Iterable[str]) -> tuple[tuple[Path, float], ...]:
    """Parse the values of --lora as files and scales. Raises SanaError (usage) for unreadable ones."""
    return tuple((local_path(path), scale) for path, scale in map(parse_lora, texts))


def _said(settings: Mapping[str, Any], key: str, kinds: tuple[type, ...], name: str) -> Any:
    value = settings.get(key)
    if value is not None and not (type(value) in kinds and _is_sensible(value)):
        raise _senseless(name, key, value)
    return value


def _is_sensible(value: str | float | bool) -> bool:
    """Check a value from JSON: it may be a number too large for a float, or a text that cannot be a file name."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)
    return abs(value) <= _LARGEST  # neither NaN nor infinite


def _texts(settings: Mapping[str, Any], key: str, name: str) -> tuple[str, ...] | None:
    values = settings.get(key)
    if values is None:
        return None
    if not isinstance(values, list) or not all(
        isinstance(value, str) and _is_sensible(value) for value in values
    ):
        raise _senseless(name, key, values)
    return tuple(values)


def _sides(size: object, name: str) -> tuple[int, int]:
    try:
        return parse_size(str(size))
    except SanaError as error:
        raise _senseless(name, "size", size) from error


def _senseless(name: str, key: str, value: object) -> SanaError:
    shown = shortened(repr(value), 60)
    return usage_error(
        f"{name} carries {key} = {shown}, which makes no sense",
        "another program has changed it; give the settings yourself",
    )


def require_library(backend: str) -> None:
    """Kernels that were asked for must be there: others would draw the picture in silence."""
    module = LIBRARIES.get(backend)
    if module is not None and not is_installed(module):
        raise SanaError(
            f"--backend {backend} needs a library that is not installed here",
            hint=f"{pip_install(LIBRARY_PACKAGES[backend])}, or omit --backend",
            code=ExitCode.ENVIRONMENT,
        )


def is_text(text: str) -> bool:
    """Check whether a text can be encoded; bytes of another encoding arrive as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
