"""File names of several pictures: patterns such as `{index}-{slug}-{seed}.png`. No torch."""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from string import Formatter

from sana_cli import output
from sana_cli.errors import ExitCode, SanaError

FIELDS = ("index", "seed", "slug")
_HINT = "fields: {index}, {seed} and {slug}; write {{ for a brace"


def is_pattern(path: Path) -> bool:
    """Whether a path has fields to fill in; a folder that is there has not."""
    return ("{" in str(path) or "}" in str(path)) and not path.is_dir()


def expand(pattern: Path, pictures: Sequence[tuple[str, int]]) -> list[Path]:
    """The name of each picture, given by prompt and seed; SanaError where two would be the same.

    `{index}` counts from 1, as wide as the last one, so that names sort as the pictures were asked for.
    """
    _check_fields(str(pattern))
    width = len(str(len(pictures)))
    names = []
    for number, (prompt, seed) in enumerate(pictures, start=1):
        values = {"index": _Index(number, width), "seed": seed, "slug": output.slug(prompt)}
        try:
            names.append(Path(str(pattern).format(**values)))
        except (ValueError, IndexError, KeyError) as error:
            raise _unusable(pattern, str(error)) from error
    if len(set(names)) < len(names):
        raise SanaError(
            f"--output {pattern} gives {len(names)} pictures {len(set(names))} different names",
            hint="add {index} or {seed} to it",
            code=ExitCode.USAGE,
        )
    return names


def without_fields(pattern: Path) -> tuple[Path, str]:
    """The folder that all names of a pattern share, and what its fields leave of the stem: `a/{slug}/x-{seed}.png`
    gives `a` and `x`."""
    folder = pattern.parent
    while _fields(str(folder)):
        folder = folder.parent
    stem = re.sub(r"([-_. ])[-_. ]+", r"\1", _literal(pattern.stem)).strip("-_. ")
    return Path(_literal(str(folder))), stem


def _literal(pattern: str) -> str:
    return "".join(text for text, *_ in Formatter().parse(pattern))


class _Index(int):
    """A number that is written with leading zeros unless a format says otherwise."""

    width: int

    def __new__(cls, value: int, width: int) -> "_Index":
        made = super().__new__(cls, value)
        made.width = width
        return made

    def __format__(self, spec: str) -> str:
        return format(int(self), spec or f"0{self.width}d")


def _check_fields(pattern: str) -> None:
    try:
        names = _fields(pattern)
    except ValueError as error:
        raise _unusable(pattern, str(error)) from error
    for name in names:
        if name not in FIELDS:
            close = difflib.get_close_matches(name, FIELDS, n=1)
            meant = f", did you mean {{{close[0]}}}?" if close else ""
            raise _unusable(pattern, f"there is no field {{{name}}}{meant}")


def _fields(pattern: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(pattern) if name is not None]


def _unusable(pattern: object, problem: str) -> SanaError:
    return SanaError(f"--output {pattern}: {problem}", hint=_HINT, code=ExitCode.USAGE)


def without_home(path: Path) -> str:
    """A path for a picture's settings: a home folder is nobody's business."""
    home = os.path.expanduser("~")
    text = str(path)
    return f"~{text[len(home) :]}" if text.startswith(home.rstrip(os.sep) + os.sep) else text
