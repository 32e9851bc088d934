"""Settings in an uploaded picture, as AUTOMATIC1111's API lists them."""

import re
from pathlib import Path
from typing import Any

from sana_cli.errors import SanaError
from sana_cli.images.parameters import parameters_text
from sana_cli.images.picture_file import read_foreign_settings, read_settings
from sana_cli.images.png import SETTINGS_KEY
from sana_cli.server.problems import Problem
from sana_cli.server.uploads import held


def png_info_of(content: bytes) -> dict[str, Any]:
    """Read the text that other tools read, and its parts. Raises Problem for what is no PNG."""
    with held(content, "sana-info-", ".png") as path:
        try:
            foreign = read_foreign_settings(path)
            settings = None if foreign is not None else _own(path)
        except SanaError as error:
            raise Problem(422, "the image is no PNG that can be read", "send a PNG") from error
    if settings is None:
        return {"info": foreign.plain_prompt if foreign else "", "items": {}, "parameters": {}}
    text = parameters_text(settings)
    pairs = re.findall(r"(\w[\w ]*): ([^,]+)", text.splitlines()[-1])
    named = {
        "Prompt": settings.get("prompt", ""),
        "Negative prompt": settings.get("negative_prompt", ""),
    }
    return {
        "info": text,
        "items": {"parameters": text, SETTINGS_KEY: settings},
        "parameters": named | dict(pairs),
    }


def _own(path: Path) -> dict[str, Any] | None:
    try:
        return read_settings(path)
    except SanaError:
        return None  # a picture without settings
