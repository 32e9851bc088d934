"""Places of a prompt file and what each says about a picture, whatever the file's form. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in a file. `kind` is "line" or "item"; `file` is set within a folder."""

    kind: str
    number: int  # from 1
    file: str = ""

    def __str__(self) -> str:
        return (
            f"{self.file}, {self.kind} {self.number}" if self.file else f"{self.kind} {self.number}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A place's values for a picture, by key, or the reason why it cannot be read.

    Values are those of JSON, or all text where `is_typed`.
    """

    place: Place
    said: Mapping[str, Any] = field(default_factory=dict)
    is_typed: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """All entries of a file, and its lines that begin with #, which are none."""

    entries: tuple[Entry, ...]
    comments: tuple[tuple[int, str], ...] = ()


class UnreadableForm(Exception):
    """The file as a whole is none; its text says why."""


def within(entry: Entry, file: str, name: str | None) -> Entry:
    """The same, as one of the files of a folder; `name` is its id unless it says one."""
    said = entry.said if name is None else {"id": name, **entry.said}
    return replace(entry, place=replace(entry.place, file=file), said=said)
