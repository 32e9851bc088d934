"""Options as the native API takes them: which fields a request has, and how files travel. No torch."""

import base64
from typing import Any

from quant.files import read_small
from sana_cli.config.choices import split_scale
from sana_cli.config.generation import FIELDS, FILES, GenerationOptions
from sana_cli.files import local_path
from sana_cli.system.home import without_home

# What no request sets: places on the server's disk, and choices that are made before it.
NOT_ASKED = ("output", "loras", "branches_apart", "wildcards", "wildcards_folder", "control_hed")
COMMANDS_AGENT = "sana/"  # how the User-Agent of `sana generate` begins; a version follows
LARGEST_FILE = 32 * 2**20  # bytes; a larger one is drawn here


class TooLarge(Exception):
    """A file is larger than requests may be, or cannot be read."""


def document_of(options: GenerationOptions, **own: Any) -> dict[str, Any]:
    """The body of a request for these options; `own`: fields of requests alone. Raises TooLarge."""
    said = {
        name: value
        for name in FIELDS
        if name not in NOT_ASKED and name not in FILES
        and (value := getattr(options, name)) is not None
    }  # fmt: skip
    files = {name: value for name in FILES if (value := getattr(options, name)) is not None}
    if "control" in files:  # a scale may follow the file's name
        files["control"], scale = split_scale(files["control"])
        said |= (
            {"control_scale": scale} if scale is not None and "control_scale" not in said else {}
        )
    uploads = {name: _upload(value) for name, value in files.items()}
    return {**said, **uploads, **own, "model": options.model_or_builtin}


def _upload(name: str) -> dict[str, str]:
    path = local_path(name)
    try:
        content = read_small(path, LARGEST_FILE)
    except (OSError, ValueError) as error:
        raise TooLarge from error
    return {"data": base64.b64encode(content).decode(), "name": without_home(path)}
