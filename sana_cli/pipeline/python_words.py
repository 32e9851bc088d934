"""Errors in the words of Python: they name options as the command does, which is not how a program gives them. No torch."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sana_cli.config.generation import FIELDS, FLAGS
from sana_cli.errors import SanaError


def _names() -> dict[str, str]:
    """Map each flag to what stands in its place in Python."""
    names = {
        "--output": "path", "--force": "overwrite=True", "--size": "width and height", "--offline": "offline=True",
    }  # fmt: skip
    for flag, field in FLAGS.items():
        is_on = field.option.flags[0].startswith(flag)
        is_switch = field.value == "true or false"
        names.setdefault(flag, f"{field.name}={is_on}" if is_switch else field.name)
    return names


_NAMES = _names()
_TEXTS = {field.name for field in FIELDS.values() if field.value not in ("number", "whole number")}
_CHOICES = {field.name: set(field.option.choices or ()) for field in FIELDS.values()}
# A command to type stays as it is, however many flags it has.
_SAID = re.compile(r"\bsana [a-z]+ [^,;)`]*|(?<![\w-])(--[a-z-]+)( [\w.][\w.:/-]*(?<=\w))?")


def python_words(text: str) -> str:
    """The text with the arguments of Python in place of the command's flags."""

    def said(found: re.Match[str]) -> str:
        name, word = _NAMES.get(found[1]), found[2] or ""
        if name is None:
            return found[0]
        value = word.strip()
        if value not in _CHOICES.get(name, ()) and not re.match(r"[\d.]|[A-Z]{2}", value):
            return name + word  # the next word of a sentence
        return f'{name}="{value}"' if name in _TEXTS else f"{name}={value}"

    return _SAID.sub(said, text)


@contextmanager
def in_python() -> Iterator[None]:
    """An error in the block names arguments of Python instead of flags."""
    try:
        yield
    except SanaError as error:
        error.message, error.hint = python_words(error.message), python_words(error.hint)
        raise
