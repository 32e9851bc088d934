"""Files of prompts, in any form that `prompt_forms` reads: each place becomes options for a picture. No torch."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from quant.plain_text import decode_text
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import SanaError, usage_error
from sana_cli.request.other_formats import other_bytes
from sana_cli.request.prompt_entries import Content, Entry, Place, UnreadableForm, within
from sana_cli.request.prompt_forms import read_entries
from sana_cli.request.prompt_values import KEYS, BadValue, options_of, values_of
from sana_cli.text import counted, noting_delay

_SUFFIXES = ("", ".txt", ".prompt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab")
_LARGEST, _PIECE = 256 * 2**20, 2**20  # bytes
_SHOWN = 3  # unknown keys, left out files


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A place of a file that asks for a picture."""

    order: int  # among all places of the file, from 1
    place: Place
    options: GenerationOptions
    id: str | None = None  # as the file names it


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A place that asks for a picture which cannot be drawn."""

    order: int
    place: Place
    error: SanaError
    id: str | None = None


class NothingToDraw(SanaError):
    """No place of a file can be drawn; `problems` says of each why."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        error = summed_up(problems)
        super().__init__(error.message, hint=error.hint, code=error.code)
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFile:
    """All that a file, or a folder of files, asks for. `notices`: what of it has no effect."""

    lines: tuple[Line, ...]
    problems: tuple[Problem, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def only_lines(self) -> tuple[Line, ...]:
        """The lines where all of them are needed: the first problem is raised."""
        for problem in self.problems:
            raise problem.error
        return self.lines


def read_prompt_file(name: str, *, called: str | None = None) -> PromptFile:
    """Read a file of prompts, a folder of such files, or standard input if the name is `-`.

    `called` is what messages call it, where `name` is a copy. Raises SanaError (usage) if nothing can be read at all; `NothingToDraw` if no
    line of it can.
    """
    return _Reader(name, called).read()


class _Reader:
    """Reads a file or folder; collects notices about all its lines."""

    def __init__(self, name: str, called: str | None = None) -> None:
        self.name = name
        self.called = "standard input" if name == "-" else called or name
        self._ignored: dict[str, None] = {}  # unknown keys, in order
        self._comments: list[str] = []
        self._left_out: list[str] = []  # files
        self._folders: list[str] = []  # in the folder
        self._ids: dict[str, Place] = {}

    def read(self) -> PromptFile:
        lines, problems = [], []
        for order, entry in enumerate(self._entries(), start=1):
            try:
                lines.append(self._line(entry, order))
            except SanaError as error:
                problems.append(
                    Problem(order=order, place=entry.place, error=error, id=_id_of(entry))
                )
        if not lines and not problems:
            raise usage_error(
                f"{self.called} holds no prompts", "write one a line, or one JSON object a line"
            )
        if not lines:
            raise NothingToDraw(problems)
        return PromptFile(
            lines=tuple(lines), problems=tuple(problems), notices=tuple(self._notices())
        )

    # -- files ------------------------------------------------------------------------------------

    def _entries(self) -> Iterator[Entry]:
        folder = None if self.name == "-" else self._folder()
        if folder is None:
            yield from self._content(self._bytes(), self.name).entries
            return
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                self._folders.append(f"{path.name}/")
                continue
            if path.suffix.lower() not in _SUFFIXES or not path.is_file():
                self._left_out.append(path.name)
                continue
            entries = self._content(_read(path, str(path)), str(path)).entries
            alone = len(entries) == 1
            yield from (within(each, path.name, path.stem if alone else None) for each in entries)

    def _folder(self) -> Path | None:
        try:
            path = Path(self.name).expanduser()
            return path if path.is_dir() else None
        except (OSError, ValueError, RuntimeError) as error:
            raise _unreadable(self.called, error) from error

    def _bytes(self) -> bytes:
        if self.name != "-":
            return _read(Path(self.name).expanduser(), self.called)
        if sys.stdin is None:
            raise _unreadable(self.called, ValueError("it is closed"))
        with _waiting(self.called) as read:
            return _limited(sys.stdin.buffer, self.called, read)

    def _content(self, data: bytes, name: str) -> Content:
        called = self.called if name == self.name else name
        if what := other_bytes(data):
            raise usage_error(f"{called} is {what}, which is not read", _FORMS)
        try:
            text = decode_text(data)
        except ValueError as error:
            raise usage_error(
                f"cannot read {called}: {error}", "save it as text in UTF-8"
            ) from error
        try:
            content = read_entries(text, name)
        except UnreadableForm as error:
            raise usage_error(f"{called} {error}", _FORMS) from error
        self._comments += [line.strip() for _, line in content.comments]
        return content

    # -- one entry --------------------------------------------------------------------------------

    def _line(self, entry: Entry, order: int) -> Line:
        try:
            if entry.problem:
                raise BadValue(entry.problem)
            values, unknown = values_of(entry)
            name = self._known_id(values.pop("id", None), entry.place)
            options = options_of(values)
        except BadValue as error:
            raise _wrong(f"{self.called}, {entry.place}", str(error)) from error
        self._ignored |= dict.fromkeys(unknown)
        return Line(order=order, place=entry.place, options=options, id=name)

    def _known_id(self, value: object, place: Place) -> str | None:
        if value is None:
            return None
        name = str(value)
        if name in self._ids:
            raise BadValue(f"has the id of {self._ids[name]}: {name!r}")
        self._ids[name] = place
        return name

    def _notices(self) -> Iterator[str]:
        if self._comments:
            what = counted(len(self._comments), "line")
            begin = "begins" if len(self._comments) == 1 else "begin"
            yield (
                f"{what} of {self.called} {begin} with # and {'is' if begin == 'begins' else 'are'} "
                f"not drawn: {_listed(self._comments)}"
            )
        if self._ignored:
            yield f"{self.called} has keys that change nothing here: {_listed(list(self._ignored))}"
        if self._left_out:
            what = counted(len(self._left_out), "file")
            hold = "holds" if len(self._left_out) == 1 else "hold"
            yield f"{what} in {self.called} {hold} no prompts by {'its name' if hold == 'holds' else 'their names'}: {_listed(self._left_out)}"
        if self._folders:
            yield f"folders in {self.called} are not read: {_listed(self._folders)}"


def summed_up(problems: Sequence[Problem]) -> SanaError:
    """Return one error for all lines that cannot be drawn: the first, and how many more there are."""
    first = problems[0].error
    more = f" (and {counted(len(problems) - 1, 'more line')})" if len(problems) > 1 else ""
    return SanaError(first.message + more, hint=first.hint, code=first.code)


# -- words ----------------------------------------------------------------------------------------

_FORMS = (
    "one prompt a line; JSON, whole or an object a line; a table with a column `prompt`; "
    'or lines such as --prompt "a red fox" --seed 3'
)


def _id_of(entry: Entry) -> str | None:
    value = entry.said.get("id")
    return str(value) if isinstance(value, str | int) else None


def _listed(texts: list[str]) -> str:
    shown = ", ".join(text if len(text) <= 40 else f"{text[:40]}..." for text in texts[:_SHOWN])
    return shown + (f", and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")


def _read(path: Path, called: str) -> bytes:
    try:
        # It may be a pipe, as shells make of <(...).
        with _waiting(called) as read, path.open("rb") as file:
            return _limited(file, called, read)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(called, error) from error


def _waiting(called: str) -> AbstractContextManager[Callable[[], None]]:
    """Say so if nothing comes: a pipe without a writer looks like a program that hangs."""
    return noting_delay(f"waiting for prompts from {called}; Ctrl-C ends it")


def _limited(file: BinaryIO, called: str, has_begun: Callable[[], None]) -> bytes:
    """All of it; in pieces, since one large read takes its memory beforehand."""
    data = bytearray()
    while piece := file.read1(_PIECE):  # type: ignore[attr-defined]
        has_begun()
        data += piece
        if len(data) > _LARGEST:
            raise _unreadable(called, ValueError(f"it is larger than {_LARGEST // 2**20} MiB"))
    return bytes(data)


def _unreadable(called: str, error: Exception) -> SanaError:
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return usage_error(
        f"cannot read {called}: {reason}",
        f"give a file, a folder of them, or -: {_FORMS}",
    )


def _wrong(where: str, problem: str) -> SanaError:
    example = json.dumps({"prompt": "a red fox"})
    others = ", ".join(key for key in KEYS if key != "prompt")
    return usage_error(f"{where} {problem}", f"a line is {example}; further keys: {others}")
