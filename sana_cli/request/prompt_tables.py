"""Prompts in a table whose first line names its columns, one of them `prompt`: CSV, TSV, or as spreadsheets write. No torch."""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from sana_cli.request.prompt_entries import Entry, Place, UnreadableForm

_DELIMITERS = "\t,;|"
_LONGEST_HEADER = 5000  # characters
_RULE = re.compile(r":?-{2,}:?")  # a cell of the line below a header in Markdown
_CUT = 60  # characters of a line that are shown


def delimiter_of(header: str) -> str | None:
    """Return the separator of a line that names columns, one of them `prompt`; None for any other line."""
    if len(header) > _LONGEST_HEADER:
        return None
    for delimiter in _DELIMITERS:
        cells = _cells(header, delimiter)
        if len(cells) > 1 and any(_is_prompt(cell) for cell in cells):
            return delimiter
    return None


def entries_of_table(text: str, delimiter: str) -> Iterator[Entry]:
    """Yield the rows of a table, all values as text; UnreadableForm for one without a column `prompt`."""
    rows = _rows(text, delimiter)
    if not rows:
        return
    header = [cell.strip() for cell in rows[0][1]]
    column = next((n for n, cell in enumerate(header) if _is_prompt(cell)), None)
    if column is None:
        named = ", ".join(cell for cell in header if cell)[:_CUT]
        raise UnreadableForm(f"has no column `prompt` in its first line, which is {named!r}")
    header[column] = "prompt"
    names = [name.casefold() for name in header if name]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise UnreadableForm(f"has two columns {doubled!r}")
    for number, row in rows[1:]:
        if all(_RULE.fullmatch(cell.strip()) for cell in row if cell.strip()):
            continue
        place = Place(kind="line", number=number)
        if any(cell.strip() for cell in row[len(header) :]):
            problem = f"has {len(row)} columns, the first line {len(header)}: quote cells that hold {delimiter!r}"
            yield Entry(place=place, problem=problem)
            continue
        said = {key: cell.strip() for key, cell in zip(header, row, strict=False) if key}
        yield Entry(place=place, said={k: v for k, v in said.items() if v}, is_typed=True)


def _cells(line: str, delimiter: str) -> list[str]:
    rows = list(csv.reader([line], delimiter=delimiter))
    return [cell.strip() for cell in rows[0]] if rows else []


def _is_prompt(cell: str) -> bool:
    return cell.strip().casefold() in ("prompt", "prompts")


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
