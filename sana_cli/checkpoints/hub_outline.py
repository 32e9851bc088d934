"""A model on the hub without its weights: its small files, and the headers of its large ones by range requests.

That is enough to judge whether it can be drawn with and what it takes in memory: kilobytes in place of gigabytes.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sana_cli.checkpoints import hub
from sana_cli.checkpoints.file_selection import DECODER, TOKENIZER, select_weights, stem_of
from sana_cli.checkpoints.hub import Offer
from sana_cli.checkpoints.safetensors_headers import parse_header
from sana_cli.checkpoints.shapes import Headers
from sana_cli.errors import SanaError, checkpoint_error
from sana_cli.files import temporary_folder

_FIRST = 2**18  # bytes: most headers are shorter, so that one request is enough
_LONGEST = 32 * 2**20  # bytes of a JSON file or a header; published ones have less than one million
# Bytes; of larger ones planning estimates tokens (`memory.text_sizes.count_tokens`).
_COUNTED_TOKENIZER = 4 * 2**20
_BROKEN = "the repository itself is broken; choose another model"


def pipeline_index(repo_id: str) -> dict[str, Any]:
    """A repository's model_index.json; empty where it has none that can be read."""
    try:
        found = json.loads(hub.pieces(repo_id, None, [("model_index.json", 0, _LONGEST)])[0])
    except (SanaError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class Outline:
    """The files of an offer that are no weights, in a temporary folder that goes when this object does."""

    def __init__(self, offer: Offer, *, first_bytes: int = _FIRST) -> None:
        """SanaError where the hub cannot be reached or a file is unusable.

        Headers longer than `first_bytes` take a second request.
        """
        self._first_bytes = first_bytes
        self.offer = offer
        self.folder = temporary_folder(self)
        self.headers: Callable[[str], Headers] = cache(self._headers)
        self._sizes = {file.name: file.size for file in offer.files}
        self._fetch(
            [n for n in self._sizes if n.endswith(".json") and not n.startswith("tokenizer/")]
        )
        if TOKENIZER in self._sizes:
            with self._place(TOKENIZER).open("wb") as file:  # a hole: planning reads its length
                file.truncate(self._sizes[TOKENIZER])

    def add_tokenizer(self) -> None:
        """Fetch it if it is so small that planning counts tokens with it."""
        if self._sizes.get(TOKENIZER, _COUNTED_TOKENIZER) < _COUNTED_TOKENIZER:
            self._fetch([TOKENIZER])

    def _fetch(self, names: Sequence[str]) -> None:
        for name in names:
            if self._sizes[name] > _LONGEST:
                raise self._unusable(name, f"is not that large: {self._sizes[name]:,} bytes")
        contents = self._read([(name, 0, self._sizes[name]) for name in names])
        for name, content in zip(names, contents, strict=True):
            self._place(name).write_bytes(content)

    def _place(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        return path

    def _headers(self, component: str) -> Headers:
        prefix = "" if component == DECODER else f"{component}/"
        names = [name.removeprefix(prefix) for name in self._sizes if name.startswith(prefix)]
        weights = [name for name in names if name.endswith(".safetensors")]
        found = self._read_headers([prefix + name for name in weights])
        headers = {name: facts for one in found for name, facts in one.items()}
        index = select_weights(names, stem=stem_of(component))
        if index is not None and index.endswith(".json"):
            listed = _weight_map(self.folder / component / index)
            if listed != set(headers):
                raise self._unusable(prefix + index, "does not list what its files hold")
        return headers

    def _read_headers(self, names: Sequence[str]) -> list[Headers]:
        """Read the headers of safetensors files; usually the first bytes of a file hold all of it."""
        starts = self._read(
            [(name, 0, min(self._sizes[name], self._first_bytes)) for name in names]
        )
        lengths = [int.from_bytes(start[:8], "little") for start in starts]
        for name, length in zip(names, lengths, strict=True):
            if not 0 < length <= min(_LONGEST, self._sizes[name] - 8):
                raise self._unusable(name, "is not a safetensors file")
        wanted = [
            (name, len(start), max(0, 8 + length - len(start)))
            for name, start, length in zip(names, starts, lengths, strict=True)
        ]
        rests = self._read(wanted)
        return [
            self._parsed(name, (start + rest)[8 : 8 + length])
            for name, start, rest, length in zip(names, starts, rests, lengths, strict=True)
        ]

    def _parsed(self, name: str, header: bytes) -> Headers:
        """Types and shapes, as `safetensors_headers.read_header` reads them from a local file."""
        try:
            entries = parse_header(header)
        except ValueError as error:
            raise self._unusable(name, "is not a safetensors file") from error
        end = max((entry.end for entry in entries.values()), default=0)
        if not entries or 8 + len(header) + end != self._sizes[name]:
            raise self._unusable(name, "is not a whole safetensors file")
        return {tensor: (entry.dtype, entry.shape) for tensor, entry in entries.items()}

    def _read(self, wanted: Sequence[hub.Piece]) -> list[bytes]:
        found = hub.pieces(self.offer.repo_id, self.offer.revision, wanted)
        for (name, start, count), content in zip(wanted, found, strict=True):
            if len(content) < count:
                raise self._unusable(name, f"ends after {start + len(content):,} bytes")
        return found

    def _unusable(self, name: str, problem: str) -> SanaError:
        return checkpoint_error(f"{name} of {self.offer.repo_id} {problem}", hint=_BROKEN)


def _weight_map(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_bytes())["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return set()
