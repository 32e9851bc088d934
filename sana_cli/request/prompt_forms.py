"""Read a file of prompts in any form: lines of text, JSON, a table, or lines of options. No torch.

The form is found by looking at the content; a name that ends in .jsonl, .csv or the like only
decides for content that looks like text. Nothing is judged here: `prompt_file` decides which keys
mean what.
"""

import csv
import io
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from quant.plain_text import split_lines

_JSON_NAMES = (".jsonl", ".ndjson", ".json")
_TABLE_NAMES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_DELIMITERS = "\t,;|"
_OBJECT = re.compile(
    r"\{\s*([\"']|\}?\s*$)"
)  # a prompt may begin with a brace, too: {red|blue} cat
_ARRAY = re.compile(r"\[\s*([\"'{]|\]?\s*$)")
_OPTION = re.compile(r"--[A-Za-z]")
_CUT = 60  # characters of a line that are shown
_LONGEST_HEADER = 5000  # characters


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


def read_entries(text: str, name: str) -> Content:
    """Read the entries of a text; `name` is that of its file. Raises UnreadableForm if its form has
    no entries.
    """
    suffix = f".{name.rpartition('.')[2].lower()}" if "." in name else ""
    lines = [(number, line) for number, line in enumerate(split_lines(text), 1) if line.strip()]
    written = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    if not written:
        return Content(entries=(), comments=tuple(lines))
    first = written[0][1].strip()
    only_line = written[0][0] if len(written) == 1 else None
    if _OBJECT.match(first) or _ARRAY.match(first) or suffix in _JSON_NAMES:
        document = _document(text)
        if document is not None:
            return Content(entries=tuple(_of_document(document, only_line)))
        spread = first == "{" or (suffix == ".json" and not _OBJECT.match(first))
        if _ARRAY.match(first) or spread:
            raise UnreadableForm(_why_no_json(text))
    delimiter = _TABLE_NAMES.get(suffix) or _delimiter_of(first)
    if delimiter:
        return Content(entries=tuple(_of_table(text, _header_delimiter(first, delimiter))))
    is_json = suffix in _JSON_NAMES or bool(_OBJECT.match(first))
    entries = tuple(_of_line(number, line.strip(), is_json=is_json) for number, line in written)
    comments = tuple(line for line in lines if line not in written)
    return Content(entries=entries, comments=comments)


# -- JSON -----------------------------------------------------------------------------------------


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no value of JSON")


def _loads(text: str) -> Any:
    """ValueError for what is not JSON, NaN included, and for what is nested too deeply."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _why_no_json(text: str) -> str:
    try:
        _loads(text)
    except ValueError as error:
        return f"is not JSON: {error}"
    return "is not JSON"


def _document(text: str) -> Any:
    """A whole file of JSON that is no JSON line; None for everything else."""
    try:
        value = _loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict | list) else None


def _of_document(document: Any, only_line: int | None) -> Iterator[Entry]:
    """An array of prompts, one prompt, or an object that holds them: as "prompts", or by their ids."""
    if isinstance(document, dict):
        inner = document.get("prompts")
        if isinstance(inner, list):
            document = inner
        elif (
            "prompt" not in document and document and all(_has_prompt(v) for v in document.values())
        ):
            document = [{"id": key, **value} for key, value in document.items()]
        elif only_line is not None:
            yield _of_value(Place(kind="line", number=only_line), document)
            return
        else:
            document = [document]
    for number, item in enumerate(document, start=1):
        yield _of_value(Place(kind="item", number=number), item)


def _has_prompt(value: object) -> bool:
    return isinstance(value, dict) and "prompt" in value


def _of_value(place: Place, value: object) -> Entry:
    if isinstance(value, str):
        return Entry(place=place, said={"prompt": value})
    if isinstance(value, dict):
        return Entry(place=place, said=value)
    return Entry(place=place, problem='is no object with a "prompt"')


# -- tables ---------------------------------------------------------------------------------------


def _cells(line: str, delimiter: str) -> list[str]:
    rows = list(csv.reader([line], delimiter=delimiter))
    return [cell.strip() for cell in rows[0]] if rows else []


def _delimiter_of(header: str) -> str | None:
    """Return the separator of a line that names columns, one of them `prompt`; None for any other line."""
    if len(header) > _LONGEST_HEADER:
        return None
    for delimiter in _DELIMITERS:
        cells = _cells(header, delimiter)
        if len(cells) > 1 and any(_is_prompt(cell) for cell in cells):
            return delimiter
    return None


def _header_delimiter(header: str, usual: str) -> str:
    """Spreadsheets of many countries write .csv with semicolons."""
    return _delimiter_of(header) or usual


def _is_prompt(cell: str) -> bool:
    return cell.strip().casefold() in ("prompt", "prompts")


def _of_table(text: str, delimiter: str) -> Iterator[Entry]:
    rows = _rows(text, delimiter)
    if not rows:
        return
    header = [cell.strip() for cell in rows[0][1]]
    column = next((n for n, cell in enumerate(header) if _is_prompt(cell)), None)
    if column is None:
        named = ", ".join(cell for cell in header if cell)[:_CUT]
        raise UnreadableForm(f"has no column `prompt` in its first line, which is {named!r}")
    header[column] = "prompt"
    for number, row in rows[1:]:
        place = Place(kind="line", number=number)
        if any(cell.strip() for cell in row[len(header) :]):
            problem = f"has {len(row)} columns, the first line {len(header)}: quote cells that hold {delimiter!r}"
            yield Entry(place=place, problem=problem)
            continue
        said = {key: cell.strip() for key, cell in zip(header, row, strict=False) if key}
        yield Entry(place=place, said={k: v for k, v in said.items() if v}, is_typed=True)


def _rows(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Rows that hold something, each with the number of its first line."""
    try:
        return _parsed(text, delimiter, csv.QUOTE_MINIMAL)
    except csv.Error as error:
        if delimiter != "\t":
            raise UnreadableForm(f"is not a readable table: {error}") from error
    try:
        return _parsed(text, delimiter, csv.QUOTE_NONE)  # quotes are mostly plain characters there
    except csv.Error as error:
        raise UnreadableForm(f"is not a readable table: {error}") from error


def _parsed(text: str, delimiter: str, quoting: Any) -> list[tuple[int, list[str]]]:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True
    )
    rows, start = [], 1
    for row in reader:
        if any(cell.strip() for cell in row):
            rows.append((start, row))
        start = reader.line_num + 1
    return rows


# -- lines ----------------------------------------------------------------------------------------


def _of_line(number: int, line: str, *, is_json: bool) -> Entry:
    place = Place(kind="line", number=number)
    if is_json or _OBJECT.match(line):
        try:
            return _of_value(place, _loads(line))
        except ValueError as error:
            return Entry(place=place, problem=f"is not JSON: {error}")
    if _OPTION.match(line):
        return _of_options(place, line)
    return Entry(place=place, said={"prompt": line})


def _of_options(place: Place, line: str) -> Entry:
    """A line such as `--prompt "a cat" --steps 20 --no-enhance`; a value may be several words without quotes."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        return Entry(place=place, problem=f"is no line of options: {error}")
    said: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words:
        if _OPTION.match(word):
            key, equals, value = word[2:].partition("=")
            values = said.setdefault(key, [])
            if equals:
                values.append(value)
        else:
            values.append(word)
    return Entry(
        place=place,
        said={key: " ".join(values) for key, values in said.items()},
        is_typed=True,
    )


def within(entry: Entry, file: str, name: str | None) -> Entry:
    """The same, as one of the files of a folder; `name` is its id unless it says one."""
    said = entry.said if name is None else {"id": name, **entry.said}
    return replace(entry, place=replace(entry.place, file=file), said=said)
