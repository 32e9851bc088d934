"""Sweeps: options with several values, and a picture for each of their combinations. No torch.

`--steps 8,14,20 --seed 1-4` are two axes of twelve pictures. What is loaded for a picture changes as seldom as it can:
models and other options of a run are the outermost axes, then LoRAs, then what changes the text.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sana_cli.config.choices import RANDOM_SEEDS
from sana_cli.config.generation import FIELDS, GenerationOptions
from sana_cli.config.other_values import did_you_mean_choice
from sana_cli.errors import SanaError, require, usage_error
from sana_cli.files import local_path, no_folder
from sana_cli.request.prompt_entries import Place
from sana_cli.text import counted

if TYPE_CHECKING:
    from sana_cli.request.prompt_file import PromptFile

MOST_AXES = 3
_MOST_VALUES = 1000
_OUTER = ("model", "precision", "backend", "decoder")  # of a run, not of a picture
_SELDOM = ("loras", "negative_prompt", "enhance")  # then these, so that texts and weights stay


def _place_on_sheet(name: str) -> tuple[bool, bool]:
    return name == "seed", name not in _OUTER


# The options that can be axes, in the order in which they become columns, blocks and rows of a sheet.
AXES = tuple(
    FIELDS[name].option.flags[0]
    for name in sorted((n for n in FIELDS if FIELDS[n].option.sweep), key=_place_on_sheet)
)
NAME = "{slug}-{id}"  # of a picture in a folder
NONE = "none"  # a LoRA's value for none at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """An option and its values, in the order in which they were given."""

    name: str  # of a field of `GenerationOptions`
    values: tuple[Any, ...]

    @property
    def labels(self) -> list[str]:
        """Name each value on a sheet and in file names: `steps 8`."""
        return [f"{FIELDS[self.name].word} {word}" for word in self.words]

    @property
    def words(self) -> list[str]:
        """Write each value shortly; in full, then with numbers, where two would read alike.

        Pictures are named by these words: two of one name would be one picture.
        """
        for write in (_shown, _in_full):
            words = [write(value) for value in self.values]
            if len({word.casefold() for word in words}) == len(words):
                return words
        return [f"{word}-{number}" for number, word in enumerate(words, start=1)]


def axis_of(name: str, text: str) -> Axis | None:
    """Read the values of an option that is given several: `8,14,20`, `1-4`; None where it is one value.

    SanaError (usage) for values that cannot be read.
    """
    if name in ("model", "loras", "decoder") and local_path(text).exists():
        return None
    parts = [part.strip() for part in text.split(",")]
    is_whole = FIELDS[name].value == "whole number"
    if len(parts) == 1 and not (is_whole and re.fullmatch(r"\d+\s*-\s*\d+", parts[0])):
        return None
    if "" in parts:
        raise usage_error(f"{_flag(name)} {text}: a value is empty", f"write {_flag(name)} A,B,C")
    values = tuple(dict.fromkeys(value for part in parts for value in _values(name, part)))
    if len(values) > _MOST_VALUES:
        raise usage_error(
            f"{_flag(name)} {text} are {len(values)} values", f"use at most {_MOST_VALUES}"
        )
    return Axis(name=name, values=values)


def one_value(flag: str, text: str) -> SanaError:
    """Make the error for several values of an option that cannot be an axis."""
    return usage_error(
        f"{flag} takes one value, not {text!r}: it cannot be an axis of a sweep",
        f"options that can: {', '.join(AXES)}",
    )


def _values(name: str, part: str) -> Sequence[Any]:
    field = FIELDS[name]
    wrong = usage_error(
        f"{_flag(name)}: cannot use {part!r}",
        f"write {_flag(name)} A,B,C" + (" or 1-4" if field.value == "whole number" else ""),
    )
    if field.option.choices:
        known = [str(choice) for choice in field.option.choices]
        if part not in known:
            meant = did_you_mean_choice(part, known)
            raise usage_error(
                f"{_flag(name)}: there is no {part!r}{meant}", f"known: {', '.join(known)}"
            )
        return [part]
    if field.value == "whole number":
        if match := re.fullmatch(r"(\d{1,20})\s*-\s*(\d{1,20})", part):
            first, last = int(match[1]), int(match[2])
            if first > last:
                raise wrong
            require(
                last < first + _MOST_VALUES,
                f"{_flag(name)}: {part} has {last - first + 1:,} values",
                f"use at most {_MOST_VALUES}, or --count N",
            )
            return range(first, last + 1)
        if name == "seed" and part.lower() in RANDOM_SEEDS:
            raise usage_error(
                "--seed: random is no value of a list", "write --count N for N random seeds"
            )
        if not re.fullmatch(r"-?\d{1,40}", part):
            raise wrong
        return [int(part)]
    if field.value == "number":
        try:
            return [float(part)]
        except ValueError:
            raise wrong from None
    if name == "loras":
        return [() if part.lower() == NONE else (part,)]
    return [part]


def _flag(name: str) -> str:
    return FIELDS[name].option.flags[0]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_shown(each) for each in value) or NONE
    if isinstance(value, float):
        return f"{value:g}"
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)


def _in_full(value: Any) -> str:
    """Write all digits of a value and its whole path, without slashes: it becomes part of a file's name."""
    if isinstance(value, tuple):
        return ", ".join(_in_full(each) for each in value) or NONE
    return str(value).replace("/", "-")


class Sweep:
    """The pictures of some axes: those of each run, and where each is on a sheet."""

    def __init__(self, axes: Sequence[Axis]) -> None:
        """SanaError (usage) for more axes than a sheet has."""
        if len(axes) > MOST_AXES:
            names = ", ".join(_flag(axis.name) for axis in axes)
            raise usage_error(
                f"{names} have several values each: {len(axes)} options",
                f"give lists to at most {MOST_AXES}",
            )
        self.axes = tuple(axes)
        self._outer = [axis for axis in axes if axis.name in _OUTER]
        inner = [axis for axis in axes if axis.name not in _OUTER]
        self._inner = sorted(inner, key=lambda axis: axis.name not in _SELDOM)

    def runs(self) -> list[Mapping[str, Any]]:
        """The options of each run, in which parts are loaded once."""
        return [
            dict(zip((a.name for a in self._outer), values, strict=True))
            for values in itertools.product(*(a.values for a in self._outer))
        ]

    def pictures(self, options: GenerationOptions, run: Mapping[str, Any]) -> "PromptFile":
        """The pictures of a run, as lines of a file of prompts; `options` say the rest."""
        from sana_cli.request.prompt_file import Line, PromptFile

        lines = []
        names = [axis.name for axis in self._inner]
        for number, values in enumerate(
            itertools.product(*(a.values for a in self._inner)), start=1
        ):
            said = dict(zip(names, values, strict=True))
            lines.append(
                Line(
                    order=number,
                    place=Place(kind="picture", number=number),
                    options=GenerationOptions(prompt=options.prompt, **said),
                    id=self.name_of({**run, **said}),
                )
            )
        return PromptFile(lines=tuple(lines))

    def name_of(self, values: Mapping[str, Any]) -> str:
        """Name a combination in a file's name: `steps8-seed1`."""
        words = (a.words[a.values.index(values[a.name])] for a in self.axes)
        return "-".join(
            f"{FIELDS[a.name].word}{word}" for a, word in zip(self.axes, words, strict=True)
        )

    def output_of(self, options: GenerationOptions) -> str | None:
        """Return where pictures go: a pattern, or a folder as it is. SanaError (usage) as for `Target.of_options`."""
        from sana_cli.request.output_paths import Target

        target = Target.of_options(options)
        if target.is_pattern or target.path is None or target.path.is_dir() or target.is_folder:
            return options.output
        path = target.path
        if not path.parent.is_dir():  # as for one picture: a plain name makes no folders
            raise no_folder(path.parent)
        return str(Path(_literal(path.parent)) / f"{_literal(Path(path.stem))}-{{id}}{path.suffix}")

    @property
    def sheet_axes(self) -> tuple[Axis, Axis | None, Axis | None]:
        """Columns, rows and blocks of a sheet: seeds are rows, models and other runs columns."""
        axes = sorted(self.axes, key=lambda axis: _place_on_sheet(axis.name))
        if len(axes) == 1:
            return axes[0], None, None
        return axes[0], axes[-1], axes[1] if len(axes) == 3 else None

    def in_sheet_order(self) -> list[str]:
        """Names of all combinations, block by block, row by row."""
        columns, rows, blocks = self.sheet_axes
        found = []
        for block in blocks.values if blocks else (None,):
            for row in rows.values if rows else (None,):
                for column in columns.values:
                    values = {columns.name: column}
                    values |= {rows.name: row} if rows else {}
                    values |= {blocks.name: block} if blocks else {}
                    found.append(self.name_of(values))
        return found

    def __str__(self) -> str:
        counts = [
            f"{len(axis.values)} of --{FIELDS[axis.name].word.replace('_', '-')}"
            for axis in self.axes
        ]
        total = 1
        for axis in self.axes:
            total *= len(axis.values)
        return f"{counted(total, 'picture')}: {' x '.join(counts)}"


def with_one_seed(
    options: GenerationOptions, axes: Sequence[Axis]
) -> tuple[GenerationOptions, list[Axis]]:
    """Give all pictures of a sweep one seed where none is named, or with `count` the seeds S, S+1, ...."""
    import secrets

    axes = list(axes)
    if any(axis.name == "seed" for axis in axes):
        if options.count is not None and options.count > 1 and "count" not in options.sources:
            raise usage_error("give --count or several seeds, not both", "omit --count")
        return replace(options, count=None, seed=None), axes
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    if options.count and options.count > 1:
        axes.append(Axis(name="seed", values=tuple(range(seed, seed + options.count))))
        return replace(options, count=None, seed=None), axes
    return replace(options, seed=seed, count=None), axes


def _literal(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")
