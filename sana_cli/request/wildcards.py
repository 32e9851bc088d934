"""Alternatives and wildcards in a prompt: `{red|green}`, `{2$$a|b|c}`, `__animals__`. No torch.

The grammar is that of sd-dynamic-prompts as far as its users write it by hand: alternatives with weights (`{3::red|green}`),
several of them (`{2$$a|b|c}`, `{1-2$$ and $$a|b|c}`), lines of text files, nested in any way. A backslash makes a
character plain. The library `dynamicprompts` is not used: it has no escapes, drops everything after `#`, and refuses
prompts with a lone `$`, `%` or `__`.

Choices follow from the picture's seed. Only `Random.random` is asked, whose numbers Python promises to keep; so they are
the same on every machine.
"""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from random import Random

from quant.files import read_small_text
from quant.plain_text import split_lines
from sana_cli.config.generation import GenerationOptions, uses_wildcards
from sana_cli.errors import SanaError, require, usage_error
from sana_cli.files import local_path
from sana_cli.text import closest, shortened

MOST_CHARACTERS = 20_000  # of a text that choices make
_DEEPEST = 60  # braces within braces, or files that name files
_MOST_CHOICES = 2000  # of one prompt
_LARGEST = 8 * 2**20  # bytes of a file
_MOST_FILES = 20_000  # of a folder
_SEPARATOR = ", "
_ESCAPED = re.compile(r"\\([{}|_$\\])")
_WILDCARD = re.compile(r"__((?!_)[\w*?][\w*?./ -]*?)__")
_COUNT = re.compile(r"(?:(\d{1,3})|(\d{1,3})?-(\d{1,3})?)\$\$")
_WEIGHT = re.compile(r"\s*(\d{1,6}(?:\.\d{0,6})?|\.\d{1,6})::")
_WORDS = re.compile(r"[{}|]|\\.|\$\{", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alternative:
    weight: float
    text: str


def chosen_prompt(options: GenerationOptions, seed: int) -> tuple[str, str | None]:
    """Return the prompt of a seed, and the template that it comes from if choices were made in it."""
    prompt = options.prompt or ""
    if not uses_wildcards(options) or not prompt.strip():
        return prompt, options.template
    folder = local_path(options.wildcards_folder or "wildcards")
    if options.wildcards_folder and "wildcards_folder" not in options.sources:  # typed
        require(
            folder.is_dir(),
            f"--wildcards-folder {folder} is no folder",
            "name one with a text file a wildcard, such as animals.txt",
        )
    chosen = expand(prompt, seed, folder)
    require(
        bool(chosen),
        f"the choices of {shortened(prompt)!r} leave nothing to draw",
        "write words around them, or --no-wildcards for plain braces",
    )
    return chosen, (prompt if chosen != prompt else None)


def expand(template: str, seed: int, folder: Path | None) -> str:
    """Return the prompt that a template becomes with a seed; wildcards are files in `folder`.

    Raises SanaError (usage) for braces that do not match, and for wildcards that are not there or never end.
    """
    return _Expansion(Random(f"sana wildcards {seed}"), folder).text(template, 0).strip()


class _Expansion:
    """The choices of one prompt, in the order of its text."""

    def __init__(self, random: Random, folder: Path | None) -> None:
        self._random, self._folder, self._choices = random, folder, 0

    def text(self, template: str, depth: int) -> str:
        if depth > _DEEPEST:
            raise _endless(f"choices are nested more than {_DEEPEST} deep", template)
        parts, place, size = [], 0, 0
        while place < len(template):
            part, place = self._next(template, place, depth)
            parts.append(part)
            size += len(part)
            if size > MOST_CHARACTERS:
                raise _endless(f"choices make more than {MOST_CHARACTERS:,} characters", template)
        return "".join(parts)

    def _next(self, template: str, place: int, depth: int) -> tuple[str, int]:
        """Return what the template says at a place, and where it continues."""
        if match := _ESCAPED.match(template, place):
            return match[1], match.end()
        if template.startswith("${", place):
            raise usage_error(
                "--wildcards knows no variables: ${", r"write \$ for a dollar before a brace"
            )
        if template[place] == "{":
            end = _closing(template, place)
            return self._alternatives(template[place + 1 : end], depth), end + 1
        if template[place] == "}":
            raise _unmatched(template, place)
        if match := _WILDCARD.match(template, place):
            return self._wildcard(match[1], depth), match.end()
        plain = re.compile(r"[^\\{}_$]+").match(template, place)
        return (plain[0], plain.end()) if plain else (template[place], place + 1)

    def _alternatives(self, inside: str, depth: int) -> str:
        least, most, separator, inside = _amount(inside)
        left = [_alternative(text) for text in _split(inside)]
        number = least + int(self._random.random() * (most - least + 1)) if most > least else least
        chosen = [
            left.pop(self._one_of([each.weight for each in left]))
            for _ in range(min(number, len(left)))
        ]
        texts = [self.text(each.text, depth + 1) for each in chosen]
        return separator.join(text.strip() for text in texts) if len(texts) > 1 else "".join(texts)

    def _wildcard(self, name: str, depth: int) -> str:
        lines = _lines_of(self._folder, name)
        alternatives = [_alternative(line) for line in lines]
        line = alternatives[self._one_of([each.weight for each in alternatives])].text
        try:
            return self.text(line, depth + 1)
        except SanaError as error:
            if name not in error.message:
                error.message = f"__{name}__: {error.message}"
            raise

    def _one_of(self, weights: Sequence[float]) -> int:
        self._choices += 1
        if self._choices > _MOST_CHOICES:
            raise _endless(f"more than {_MOST_CHOICES:,} choices are made", "")
        total = sum(weights)
        weights = weights if total > 0 else [1.0] * len(weights)
        mark = self._random.random() * (total if total > 0 else len(weights))
        for number, weight in enumerate(weights):
            mark -= weight
            if mark < 0:
                return number
        return max(number for number, weight in enumerate(weights) if weight > 0)


# -- braces ----------------------------------------------------------------------------------------


def _closing(template: str, start: int) -> int:
    """Return the place of the brace that closes the one at `start`."""
    depth = 0
    for match in _WORDS.finditer(template, start):
        depth += {"{": 1, "${": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    raise _unmatched(template, start)


def _split(inside: str) -> list[str]:
    """Split the inside of braces at its own bars, not at those of braces within."""
    parts, depth, start = [], 0, 0
    for match in _WORDS.finditer(inside):
        depth += {"{": 1, "${": 1, "}": -1}.get(match[0], 0)
        if match[0] == "|" and depth == 0:
            parts.append(inside[start : match.start()])
            start = match.end()
    return [*parts, inside[start:]]


def _amount(inside: str) -> tuple[int, int, str, str]:
    """Return how many alternatives are taken, at least and at most, what stands between them, and the rest."""
    match = _COUNT.match(inside)
    if match is None:
        return 1, 1, "", inside
    rest = inside[match.end() :]
    exact, low, high = match.groups()
    separator, marked, others = rest.partition("$$")
    if marked and not re.search(r"[{}]|(?<!\\)\\", separator):
        rest = others
    else:
        separator = _SEPARATOR
    number = len(_split(rest))
    if exact is not None:
        return int(exact), int(exact), separator, rest
    least, most = int(low or 0), int(high) if high else number
    return min(least, most), max(least, most), separator, rest


def _alternative(text: str) -> _Alternative:
    match = _WEIGHT.match(text)
    return (
        _Alternative(weight=float(match[1]), text=text[match.end() :])
        if match
        else _Alternative(weight=1.0, text=text)
    )


def _unmatched(template: str, place: int) -> SanaError:
    around = shortened(template[place : place + 30], 30)
    return usage_error(
        f"the brace at character {place + 1} has no partner: {around}",
        rf"write \{template[place]} for a plain brace, or --no-wildcards for all",
    )


def _endless(what: str, template: str) -> SanaError:
    where = f": {shortened(template, 40)}" if template else ""
    return usage_error(f"{what}{where}", "use fewer, and look for a wildcard that names itself")


# -- files -----------------------------------------------------------------------------------------


def _lines_of(folder: Path | None, name: str) -> Sequence[str]:
    """Return the lines of the text files of a name, in the order of their names, without comments."""
    if folder is None or not folder.is_dir():
        where = f"{folder} is no folder" if folder else "there is no folder of wildcards"
        raise usage_error(
            f"__{name}__ cannot be looked up: {where}",
            f"put its words into {name.strip()}.txt, one per line, and name the folder: --wildcards-folder FOLDER",
        )
    wanted = name.strip()
    direct = folder / f"{wanted}.txt"
    if ".." not in wanted.split("/") and direct.is_file():
        found = [direct]
    else:
        files = _text_files(folder)
        wanted = wanted.casefold()
        found = [files[each] for each in files if each == wanted or _fits(each, wanted)]
    if not found:
        near = closest(wanted, files)
        meant = f", did you mean __{near}__?" if near else ""
        raise usage_error(
            f"there is no wildcard __{name}__ in {folder}{meant}",
            f"write {folder / (wanted.replace('*', 'all') + '.txt')}, one choice a line",
        )
    lines = [line for path in found for line in _read(path, path.stat().st_mtime_ns)]
    if not lines:
        raise usage_error(f"__{name}__ has no lines to choose from", f"write some into {found[0]}")
    return lines


def _text_files(folder: Path) -> dict[str, Path]:
    """Map the names of all wildcards of a folder to their files: `animals`, `colours/warm`."""
    paths = sorted(islice(folder.rglob("*.txt"), _MOST_FILES))
    return {
        path.relative_to(folder).with_suffix("").as_posix().casefold(): path
        for path in paths
        if path.is_file()
    }


def _fits(name: str, pattern: str) -> bool:
    return any(c in pattern for c in "*?") and fnmatch.fnmatchcase(name, pattern)


@lru_cache(maxsize=64)
def _read(path: Path, changed: int) -> tuple[str, ...]:
    """Read a file once for each time that it is changed."""
    try:
        text = read_small_text(path, _LARGEST)
    except (OSError, ValueError) as error:
        raise usage_error(
            f"cannot read the wildcards in {path}: {error}", "save it as UTF-8 text"
        ) from error
    lines = (line.strip() for line in split_lines(text))
    return tuple(line for line in lines if line and not line.startswith("#"))
