"""A prompt that comes through a pipe: `echo "a cat" | sana generate`, or `sana generate -`."""

import os
import stat
import sys

from quant.plain_text import decode_text, split_lines
from sana_cli.errors import usage_error
from sana_cli.text import note, noting_delay

_MANY = "to draw each line: sana generate --prompts -"


def piped_prompt(*, asked: bool) -> str | None:
    """Read the one prompt on standard input; None if nothing is piped and `-` did not ask for it.

    Raises SanaError (usage) for no text, and for several lines: only the user knows whether those
    are one prompt or many.
    """
    if not asked and not _is_piped():
        return None
    if sys.stdin.isatty():
        note("reading the prompt from standard input; Ctrl-D ends it")
    try:
        with noting_delay("waiting for the prompt on standard input; Ctrl-C ends it"):
            text = decode_text(sys.stdin.buffer.read())
    except ValueError as error:
        raise usage_error(
            f"the prompt on standard input {str(error).removeprefix('it ')}",
            "convert it to UTF-8 first",
        ) from error
    lines = [line.strip() for line in split_lines(text) if line.strip()]
    if not lines and not asked:
        return None
    if len(lines) != 1:
        found = f"{len(lines)} lines" if lines else "no prompt"
        hint = _MANY if lines else 'pipe one line of text: echo "a cat" | sana generate -'
        raise usage_error(f"standard input holds {found}", hint)
    if _is_no_words(lines[0]):
        raise usage_error(
            "standard input holds JSON or options, not the words of a prompt",
            "to draw what they say: sana generate --prompts -",
        )
    return lines[0]


def _is_no_words(line: str) -> bool:
    """Return whether a file of prompts would be read in another form than as a line of words."""
    from sana_cli.request.prompt_entries import UnreadableForm
    from sana_cli.request.prompt_forms import read_entries

    if not line.startswith(("{", "[", "--")):
        return False
    try:
        return [dict(entry.said) for entry in read_entries(line, "").entries] != [{"prompt": line}]
    except UnreadableForm:
        return True


def _is_piped() -> bool:
    """Return whether standard input is a pipe or a file: anything else may never end."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or not a file of the system
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)
