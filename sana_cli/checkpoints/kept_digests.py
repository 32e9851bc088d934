"""SHA-256 of files that take seconds to read, kept from run to run in the caches' folder. No torch.

A file is known by its path and its state: size, time of the last change, inode. A list that cannot be read or written
costs a reading, never a picture.
"""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from quant.files import changing, new_file, read_small_text
from sana_cli.checkpoints.known_digests import known_digest, state_of
from sana_cli.config.places import cache_folder
from sana_cli.errors import SanaError

_MOST = 200  # files that are remembered, the newest
_DIGEST = re.compile("[0-9a-f]{64}")


def kept_digest(path: Path) -> str:
    """Return a file's SHA-256, read once for each of its states on this machine. Raises OSError."""
    _, *state = state_of(path)  # the path is the entry's name
    entry = _read().get(str(path))
    if isinstance(entry, dict) and entry.get("state") == state:
        digest = entry.get("sha256")
        if isinstance(digest, str) and _DIGEST.fullmatch(digest):
            return digest
    digest = known_digest(path)
    if list(state_of(path)[1:]) == state:  # else it changed while it was read
        _keep(path, {"state": state, "sha256": digest})
    return digest


def _keep(path: Path, entry: dict[str, Any]) -> None:
    with suppress(OSError, SanaError), changing(_list()):
        found = _read()
        found.pop(str(path), None)
        newest = dict([*found.items(), (str(path), entry)][-_MOST:])
        with new_file(_list(), overwrite=True) as file:
            file.write((json.dumps(newest, indent=1) + "\n").encode())


def _list() -> Path:
    return cache_folder() / "digests.json"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(read_small_text(_list()))
    except (OSError, ValueError, RecursionError, SanaError):
        return {}
    return found if isinstance(found, dict) else {}
