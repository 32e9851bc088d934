"""Check a hub's answer about a repo before using any of it. Standard library only.

The address may be a mirror's, a login page may answer instead, and a line without TLS can be
tampered with.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sana_cli.checkpoints.hub_files import RemoteFile, is_commit, remote_file, unsafe_name

LARGEST_ANSWER = 64 * 2**20  # bytes; a listing takes about 250 a file


class BadAnswer(ValueError):
    """The answer is not a hub's description of a repo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A repo at one commit. Names are not checked yet; a file without a proper size and digest is None."""

    commit: str  # 40 hex digits
    licence: str  # one line, as the repo declares it, or empty
    announced: dict[str, RemoteFile | None]

    @property
    def files(self) -> dict[str, RemoteFile]:
        return {name: file for name, file in self.announced.items() if file is not None}

    def take(self, names: Sequence[str]) -> list[RemoteFile]:
        """These files; BadAnswer where one cannot be fetched safely, or could not be verified."""
        if (name := unsafe_name(names)) is not None:
            raise BadAnswer(f"it lists {name!r}, which cannot be a file's name on every system")
        taken = []
        for name in names:
            if (file := self.announced[name]) is None:
                raise BadAnswer(f"it gives no proper size and digest of {name}")
            taken.append(file)
        return taken


def parse_listing(body: bytes) -> Listing:
    """Parse the answer to `/api/models/REPO?blobs=true`; raise BadAnswer for anything else."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadAnswer("its answer is not JSON") from error
    if not isinstance(answer, dict):
        raise BadAnswer("its answer is not about a repo")
    commit, siblings = answer.get("sha"), answer.get("siblings")
    if not isinstance(commit, str) or not is_commit(commit):
        raise BadAnswer("it names no commit")
    if not isinstance(siblings, list):
        raise BadAnswer("it lists no files")
    announced = dict(map(_announced, siblings))
    if len(announced) < len(siblings):
        raise BadAnswer("it lists a file twice")
    return Listing(
        commit=commit,
        licence=_licence(answer.get("cardData")),
        announced=announced,
    )


def _announced(entry: Any) -> tuple[str, RemoteFile | None]:
    name = entry.get("rfilename") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise BadAnswer("it lists a file without a name")
    lfs = entry.get("lfs")
    digest = lfs.get("sha256") if isinstance(lfs, dict) else entry.get("blobId")
    return name, remote_file(name, entry.get("size"), digest)


def _licence(card: Any) -> str:
    declared = card.get("license") if isinstance(card, dict) else None
    names = declared if isinstance(declared, list) else [declared]
    return " ".join(", ".join(name for name in names if isinstance(name, str)).split())[:200]
