"""File names of several pictures: patterns such as `{index}-{slug}-{seed}.png`. No torch."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sana_cli import text as output
from sana_cli.errors import SanaError, usage_error
from sana_cli.text import closest

FIELDS = ("index", "seed", "slug", "id")
ANY_INDEX = "\0"  # no name has this character
_HINT = "fields: {index}, {seed}, {slug} and, of a file of prompts, {id}; digits: {index:04}; write {{ for a brace"
# Python's own, but for what fills memory (widths of nine digits, fields in formats) or makes no names (signs, slashes).
_FORMAT = re.compile(r"([\w.-]?[<>^=])?#?0?\d{0,2}_?(\.\d{1,3})?[sdxXob]?")
_UNFIT = re.compile(r'[/\\:*?"<>|\s\x00-\x1f\x7f]+')  # for names of files on some system
_NUMBER = re.compile(r"\d+")
_ADDED = re.compile(r"-\d+(?=\.[^.]*$)")


def is_pattern(path: Path) -> bool:
    """Return whether a path has fields to fill in; an existing folder never has."""
    return ("{" in str(path) or "}" in str(path)) and not path.is_dir()


class Named(NamedTuple):
    """The facts of a picture that its file name may contain."""

    prompt: str
    seed: int
    number: int = 0  # `{index}`, from 1; 0: its place in the list
    id: str | None = None  # its own, in a file of prompts


def expand(pattern: Path, pictures: Sequence[tuple[str, int] | Named]) -> list[Path]:
    """Return the name of each picture, given by prompt and seed; raise SanaError if two would be
    the same.

    `{index}` is as wide as the last one, so that names sort in the order of the pictures.
    """
    _check_fields(str(pattern))
    named = [Named(*each) for each in pictures]
    numbers = [each.number or place for place, each in enumerate(named, start=1)]
    usual = f"0{len(str(max(numbers)))}d"
    names = [
        _filled(pattern, each, _Index(number, usual))
        for each, number in zip(named, numbers, strict=True)
    ]
    if len(set(names)) < len(names):
        helping = " or ".join(_telling_apart(pattern, names, named, numbers))
        raise usage_error(
            f"--output {pattern} has {output.counted(len(set(names)), 'name')} for {len(names)} pictures",
            f"add {helping} to it" if helping else _HINT,
        )
    return names


def _telling_apart(
    pattern: Path, names: Sequence[Path], pictures: Sequence[Named], numbers: Sequence[int]
) -> Iterator[str]:
    """List the fields that the pattern lacks, and with one of which no two names would be the same."""
    used = {name for name, _ in _fields(str(pattern))}
    values = [_values(each, number) for each, number in zip(pictures, numbers, strict=True)]
    for field in ("id", "index", "seed", "slug"):
        is_said = field != "id" or all(each.id is not None for each in pictures)
        found = {(name, each[field]) for name, each in zip(names, values, strict=True)}
        if field not in used and is_said and len(found) == len(names):
            yield f"{{{field}}}"


def _filled(pattern: Path, picture: Named, index: "_Index | _AnyIndex") -> Path:
    if picture.id is None and any(name == "id" for name, _ in _fields(str(pattern))):
        which = f"picture {picture.number}" if picture.number else "the picture"
        raise usage_error(
            f"--output {pattern}: {which} has no id",
            'use {index} or {slug}; sweeps have ids, and lines of --prompts that say one: {"id": "fox", "prompt": "a red fox"}',
        )
    try:
        return Path(str(pattern).format(**_values(picture, index)))
    except (ValueError, LookupError, OverflowError) as error:
        raise _unusable(pattern, str(error)) from error


def _values(picture: Named, index: object) -> dict[str, object]:
    """Return what a picture writes for each field."""
    return {
        "index": index,
        "seed": picture.seed,
        "slug": output.slug(picture.prompt),
        "id": output.no_device(_UNFIT.sub("-", picture.id or "").strip("-. ") or "picture"),
    }


def without_index(pattern: Path, picture: Named) -> str:
    """Return a picture's name with ANY_INDEX for its number."""
    return str(_filled(pattern, picture, _AnyIndex()))


def readings(name: str) -> set[str]:
    """List what `without_index` may return for a file's name.

    Any of its numbers may be the index, and a number at its end may have been added because the
    name was taken.
    """
    found = set()
    for text in (name, _ADDED.sub("", name)):
        found.add(text)
        found |= {text[: m.start()] + ANY_INDEX + text[m.end() :] for m in _NUMBER.finditer(text)}
    return found


def has_folder_fields(pattern: Path) -> bool:
    """Return whether the folder differs between the names of a pattern."""
    return any(_fields(str(pattern.parent)))


def free_name(path: Path, is_taken: Callable[[Path], bool]) -> Path:
    """Return the path, or the first of NAME-2, NAME-3, ... that is not taken."""
    candidate, number = path, 2
    while is_taken(candidate):
        candidate, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return candidate


def without_fields(pattern: Path) -> tuple[Path, str]:
    """Return the folder that all names of a pattern share, and the stem without fields.

    `a/{slug}/x-{seed}.png` gives `a` and `x`.
    """
    folder = pattern.parent
    while any(_fields(str(folder))):
        folder = folder.parent
    stem = re.sub(r"([-_. ])[-_. ]+", r"\1", _literal(pattern.stem)).strip("-_. ")
    return Path(_literal(str(folder))), stem


def _literal(pattern: str) -> str:
    return "".join(text for text, *_ in _pieces(pattern))


class _Index(int):
    """A number that is written with leading zeros unless a format says otherwise."""

    usual: str

    def __new__(cls, value: int, usual: str) -> "_Index":
        made = super().__new__(cls, value)
        made.usual = usual
        return made

    def __format__(self, spec: str) -> str:
        return format(int(self), spec or self.usual)


class _AnyIndex:
    """A stand-in for a number, however it is to be written."""

    def __format__(self, spec: str) -> str:
        return ANY_INDEX


def _check_fields(pattern: str) -> None:
    try:
        fields = list(_fields(pattern))
    except ValueError as error:
        raise _unusable(pattern, str(error)) from error
    for name, how in fields:
        if name not in FIELDS:
            field = closest(name, FIELDS)
            meant = f", did you mean {{{field}}}?" if field else ""
            raise _unusable(pattern, f"there is no field {{{name}}}{meant}")
        if not _FORMAT.fullmatch(how):
            raise _unusable(pattern, f"{{{name}:{how}}} is not a valid format")


def _fields(pattern: str) -> Iterator[tuple[str, str]]:
    """Name and format of each field."""
    for _, name, how, _ in _pieces(pattern):
        if name is not None:
            yield name, how or ""


def _pieces(pattern: str) -> Iterator[tuple[str, str | None, str | None, str | None]]:
    """Each literal text of a pattern, and the field that follows it. Raises ValueError."""
    from string import Formatter  # only where there may be fields

    return iter(Formatter().parse(pattern))


def _unusable(pattern: object, problem: str) -> SanaError:
    return usage_error(f"--output {pattern}: {problem}", _HINT)
