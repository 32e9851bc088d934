"""Read a file of prompts in any form: lines of text, JSON, a table, or lines of options. No torch.

The form is found by looking at the content; a name that ends in .jsonl, .csv or the like only
decides for content that looks like text. Nothing is judged here: `prompt_file` decides which keys
mean what.
"""

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any
from unicodedata import category

from quant.plain_text import split_lines
from sana_cli.request.other_formats import is_workflow, other_text
from sana_cli.request.prompt_entries import Content, Entry, Place, UnreadableForm
from sana_cli.request.prompt_tables import delimiter_of, entries_of_table
from sana_cli.text import parsers_words

_JSON_NAMES = (".jsonl", ".ndjson", ".json")
_TABLE_NAMES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_OBJECT = re.compile(
    r"\{\s*([\"']|\}?\s*$)"
)  # a prompt may begin with a brace, too: {red|blue} cat
_ARRAY = re.compile(r"\[\s*([\"'{]|\]?\s*$)")
_OPTION = re.compile(r"--[A-Za-z]")
_QUOTED = re.compile(
    r'"(?:[^"\\]|\\.)*",?'
)  # a line that is a JSON string, as lists in programs have them
_COLUMN = re.compile(
    r'"?prompts?"?', re.IGNORECASE
)  # all that a table of one column has for a header
_SEPARATOR = re.compile(r"sep=(.)$", re.IGNORECASE)  # a first line that Excel writes and reads


def read_entries(text: str, name: str) -> Content:
    """Read the entries of a text; `name` is that of its file. Raises UnreadableForm if its form has
    no entries.
    """
    suffix = f".{name.rpartition('.')[2].lower()}" if "." in name else ""
    lines = [(number, line) for number, line in enumerate(split_lines(text), 1) if _shows(line)]
    written = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    if not written:
        return Content(entries=(), comments=tuple(lines))
    first = written[0][1].strip()
    only_line = written[0][0] if len(written) == 1 else None
    if other := other_text([line for _, line in written], suffix):
        raise UnreadableForm(f"is {other}, which is not read")
    if _OBJECT.match(first) or _ARRAY.match(first) or suffix in _JSON_NAMES:
        document = _document(text)
        if is_workflow(document):
            raise UnreadableForm("is a workflow of ComfyUI, which is not read")
        if document is not None:
            return Content(entries=tuple(_of_document(document, only_line)))
        spread = first == "{" or (suffix == ".json" and not _OBJECT.match(first))
        if _ARRAY.match(first) or spread:
            raise UnreadableForm(_why_no_json(text))
    # Spreadsheets of many countries write .csv with semicolons.
    delimiter = delimiter_of(first) or _TABLE_NAMES.get(suffix)
    if not delimiter and _COLUMN.fullmatch(first) and len(written) > 1:
        delimiter = ","
    if named := _SEPARATOR.match(first):
        delimiter, text = named[1], text.replace(written[0][1], "", 1)  # its line stays, empty
    if delimiter:
        return Content(entries=tuple(entries_of_table(text, delimiter)))
    is_json = suffix in _JSON_NAMES or bool(_OBJECT.match(first))
    if not is_json and all(_QUOTED.fullmatch(line.strip()) for _, line in written):
        is_json, written = True, [(number, line.strip().rstrip(",")) for number, line in written]
    entries = tuple(_of_line(number, line.strip(), is_json=is_json) for number, line in written)
    comments = tuple(line for line in lines if line[1].lstrip().startswith("#"))
    return Content(entries=entries, comments=comments)


def _shows(line: str) -> bool:
    """Return whether a line holds more than blanks and signs that nobody sees: Ctrl-Z ends files of DOS."""
    return any(category(sign)[0] not in "CZ" for sign in line)


# -- JSON -----------------------------------------------------------------------------------------


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no value of JSON")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it says {next(k for k in keys if keys.count(k) > 1)!r} twice")
    return found


def _loads(text: str) -> Any:
    """ValueError for what is not JSON, NaN and keys said twice included, and for what is nested too deeply."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_without_doubles)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _why_no_json(text: str) -> str:
    try:
        _loads(text)
    except ValueError as error:
        return f"is not JSON: {parsers_words(error)}"
    return "is JSON, but neither a list nor an object"


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


# -- lines ----------------------------------------------------------------------------------------


def _of_line(number: int, line: str, *, is_json: bool) -> Entry:
    place = Place(kind="line", number=number)
    if is_json or _OBJECT.match(line):
        try:
            return _of_value(place, _loads(line))
        except ValueError as error:
            return Entry(place=place, problem=f"is not JSON: {parsers_words(error)}")
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
