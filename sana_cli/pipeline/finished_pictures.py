"""Finished pictures of a batch, found by the settings in their files, whatever number their names begin with. No torch.

A line that is added or removed changes the numbers of others, and a tenth one their zeros; their pictures stay the same.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sana_cli.errors import SanaError
from sana_cli.images import file_names
from sana_cli.images.formats import format_of
from sana_cli.images.picture_file import read_settings

Settings = Mapping[str, Any]


class FinishedPictures:
    """Pictures that exist under the names of a pattern. Each file is read once, when it is first needed."""

    def __init__(self, pattern: Path, model_digest: str) -> None:
        self.pattern, self.model_digest = pattern, model_digest
        self.root, _ = file_names.without_fields(pattern)
        self._read: dict[Path, Settings | None] = {}
        self._by_name: dict[str, list[Path]] | None = None
        self._by_content: dict[tuple[str, Any, Any], list[Path]] = {}

    def settings_of(self, path: Path) -> Settings | None:
        """Read the settings in a picture; None if the file is missing or was not drawn by sana."""
        if path not in self._read:
            try:
                self._read[path] = read_settings(path)
            except SanaError:
                self._read[path] = None
        return self._read[path]

    def is_at(self, path: Path, wanted: Settings) -> bool:
        """Check whether a file is the picture that `wanted` would draw."""
        found = self.settings_of(path)
        return found is not None and fits(found, wanted, self.model_digest)

    def elsewhere(self, picture: file_names.Named, wanted: Settings) -> list[Path]:
        """List files that are the picture `wanted` would draw, under other names of the pattern."""
        name = file_names.without_index(self.pattern, picture)
        content = name, wanted["seed"], wanted["prompt"]
        if content not in self._by_content:
            self._learn(name)
        candidates = self._by_content.get(content, [])
        return [path for path in candidates if self.is_at(path, wanted)]

    def _learn(self, name: str) -> None:
        """Sort the files of one name, but for its number, by what is in them."""
        for path in self._files().get(name, []):
            settings = self.settings_of(path)
            if settings is not None:
                content = name, settings.get("seed"), settings.get("prompt")
                known = self._by_content.setdefault(content, [])
                if path not in known:
                    known.append(path)

    def _files(self) -> dict[str, list[Path]]:
        if self._by_name is None:
            self._by_name = defaultdict(list)
            anywhere = file_names.has_folder_fields(self.pattern)
            try:
                paths = sorted(self.root.rglob("*") if anywhere else self.root.glob("*"))
            except OSError:
                paths = []
            for path in paths:
                if format_of(path) is not None:
                    for name in file_names.readings(str(path)):
                        self._by_name[name].append(path)
        return self._by_name


def fits(found: Settings, wanted: Settings, model_digest: str) -> bool:
    """Check whether a picture with the settings `found` is the one that `wanted` would draw."""
    same_model = found.get("model_digest", model_digest) == model_digest
    return same_model and all(found.get(key) == value for key, value in wanted.items())
