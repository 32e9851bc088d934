"""Make printed text safe: a value keeps to its line, whoever wrote it, and a JSON document is one
line. No torch.

Names, prompts and settings come from people, files and hubs. A line break in one of them would
forge a line of ours, an escape sequence would steer the terminal, and a bidirectional control would
show a text in another order than it has. All printing therefore passes through here; a test looks
for other ways.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from types import TracebackType
from unicodedata import category

from sana_cli.system.redact import without_known_secrets, without_secrets

JSON_VERSION = 1  # of documents on stdout; raised when a key goes or changes its meaning
_LONGEST = 200  # characters, of one value within a message
_LONGEST_MESSAGE = 1000
_ROOM_FOR_WORDS = 24  # characters of the narrowest column that is worth wrapping to
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def parsers_words(error: Exception) -> str:
    """Return what a parser of JSON or TOML says; of a number that Python refuses to read, in words without its remedies."""
    if "set_int_max_str_digits" in str(error):
        return "it holds a number of thousands of digits"
    return str(error)


def one_line(text: str) -> str:
    """The text, with everything escaped that could leave its line or steer a terminal.

    Joiners, marks and spaces of all scripts stay: they are part of words and of emoji.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(c) if _steers(c) else c for c in text)


def shortened(text: str, longest: int = _LONGEST) -> str:
    """Return a text's beginning and end if it is longer than `longest`, else all of it."""
    if len(text) <= longest:
        return text
    tail = longest // 4
    return f"{text[: longest - tail - 3]}...{text[-tail:]}"


def message_line(text: str) -> str:
    """A message on one line, without secrets, and with long values cut: the user knows what was typed."""
    text = without_secrets(text)
    if len(text) > _LONGEST:
        text = re.sub(rf"\S{{{_LONGEST + 1},}}", lambda found: shortened(found[0]), text)
    return shortened(one_line(text), _LONGEST_MESSAGE)


def shell_command(words: Sequence[str]) -> str:
    """Words as a POSIX shell reads them back, to the character, on one line."""
    return " ".join(map(_quoted, words))


def _write(line: str, *, err: bool = False) -> None:
    """Write a line at once. Typer's echo does the same, and takes a tenth of a second to import."""
    stream = sys.stderr if err else sys.stdout
    if stream is not None:  # as in a program without a console
        stream.write(f"{line}\n")
        stream.flush()


def say(*lines: str, err: bool = False) -> None:
    """Print each as one line."""
    for line in lines:
        _write(one_line(without_known_secrets(line)), err=err)


def say_command(label: str, words: Sequence[str]) -> None:
    """Print a command to copy: nothing of it is cut, and what would leave the line is quoted."""
    _write(f"{one_line(label)}: {shell_command(words)}")


def yes_or_no(value: object) -> str:
    """Write a value for people, who do not know True and False of Python."""
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def note(message: str) -> None:
    """Print a notice on stderr."""
    _write(f"note: {message_line(message)}", err=True)


@contextmanager
def noting_delay(message: str, *, seconds: float = 1.5) -> Iterator[Callable[[], None]]:
    """Print a notice if the block takes longer than this, unless it calls what it is given: it no
    longer waits then.
    """
    import threading

    timer = threading.Timer(seconds, note, [message])
    timer.daemon = True
    timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()


def show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a traceback without secrets: errors of libraries quote addresses with their passwords."""
    import traceback

    sys.stderr.write(without_secrets("".join(traceback.format_exception(kind, error, trace))))


def print_json(document: Mapping[str, object]) -> None:
    """Print a document as one line of JSON that stdout's encoding can carry. Numbers that JSON lacks become null.

    docs/json.md describes each.
    """
    text = json_text({"version": JSON_VERSION, **document}, sys.stdout.encoding or "utf-8")
    _write(without_known_secrets(text))


def json_text(document: object, encoding: str) -> str:
    """JSON on one line, with escapes for what an encoding lacks and for what would steer a terminal."""
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    except ValueError:
        document = _finite(document)
        text = json.dumps(document, ensure_ascii=False)
    try:
        text.encode(encoding)
    except UnicodeError:
        return json.dumps(document)
    if text.isprintable():
        return text
    # Outside of strings JSON is printable, and all that steers is in the basic plane.
    return "".join(f"\\u{ord(c):04x}" if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    return category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _DIRECTIONS


def _escaped(character: str) -> str:
    number = ord(character)
    return _NAMED.get(character) or (f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}")


def _quoted(word: str) -> str:
    """Quoted for a shell; a tab stays as it is, since it leaves no line."""
    if not any(_steers(c) and c != "\t" for c in word):
        import shlex  # only where a command is shown

        return shlex.quote(word)
    inner = "".join(
        "".join(f"\\{byte:03o}" for byte in _bytes(c)) if _steers(c) else c
        for c in word.replace("\\", "\\\\").replace("'", "\\'")
    )
    return f"$'{inner}'"


def _bytes(character: str) -> bytes:
    try:
        return character.encode("utf-8", "surrogateescape")  # of a name that is not UTF-8
    except UnicodeEncodeError:
        return character.encode("utf-8", "surrogatepass")


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_SELECTOR = re.compile(
    "[\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)  # how an emoji looks: no part of a word


_DEVICE = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9¹²³]", re.IGNORECASE)


def slug(prompt: str, *, limit: int = 48) -> str:
    """A file name's worth of a prompt: letters, their marks and digits of any script, joined by hyphens."""
    kept = ""
    for character in prompt.lower():
        if character.isalnum() or (_is_mark(character) and kept[-1:] not in ("", "-")):
            kept += character
        elif not kept.endswith("-"):
            kept += "-"
    # Names are limited in bytes; a character of some scripts takes three.
    whole = kept.strip("-")
    cut = whole.encode()[:limit].decode(errors="ignore")
    if _is_mark(whole[len(cut) : len(cut) + 1]):  # a letter loses none of its marks
        while _is_mark(cut[-1:]):
            cut = cut[:-1]
        cut = cut[:-1]
    return no_device(cut.rstrip("-") or "picture")


def no_device(name: str) -> str:
    """Return another name for one that Windows keeps for a device, whatever its suffix."""
    stem, dot, rest = name.partition(".")
    return f"{stem}-picture{dot}{rest}" if _DEVICE.fullmatch(stem) else name


def _is_mark(character: str) -> bool:
    """Return whether a character belongs to the letter before it: accents typed apart, vowels of
    Hindi and Thai.
    """
    return category(character or " ") in ("Mn", "Mc") and not _SELECTOR.match(character)


def closest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known word that a mistyped one probably means; None if none resembles it by `cutoff`, 0 to 1."""

    import difflib  # a millisecond, for mistakes only

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the known word that resembles this one; "" if none does."""
    meant = closest(word, known)
    return f", did you mean {meant!r}?" if meant else ""


def in_sentences(message: str, hint: str) -> str:
    """Join an error's message and hint to one text; the message begins as it does, maybe with a file's name."""
    if not hint:
        return message
    said = message if message.endswith("?") else f"{message.rstrip('.')}."
    return f"{said} {hint[:1].upper()}{hint[1:].rstrip('.')}."


def counted(number: int, noun: str) -> str:
    """A number and what it counts: "1 step", "2 steps"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def with_article(noun: str) -> str:
    """ "a cat", "an owl"; plurals as they are."""
    if noun.endswith("s") and not noun.endswith(("ss", "us")):
        return noun
    return f"an {noun}" if noun[:1] in tuple("aeio") or noun == "umbrella" else f"a {noun}"


def readable_bytes(count: int) -> str:
    """A size for people, in powers of ten as disks and networks are sold."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def readable_memory(count: int, *, at_least: bool = False) -> str:
    """An amount of memory for people, in powers of two; rounded up if `at_least` so much is needed."""
    unit, places = ("GiB", 2) if count >= 2**30 else ("MiB", 0)
    amount = count / {"GiB": 2**30, "MiB": 2**20}[unit]
    if at_least:
        amount = ceil(amount * 10**places) / 10**places
    return f"{amount:.{places}f} {unit}"


def columns(rows: Sequence[tuple[str, ...]], *, width: int | None = None) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell.

    With a `width` of lines, in characters, the last column is wrapped to what the others leave, if that is enough for
    words.
    """
    shown = [[one_line(cell) for cell in row] for row in rows]
    if width is not None:
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)][:-1]
        room = max(width - sum(widths) - 2 * len(widths), _ROOM_FOR_WORDS)
        shown = [line for row in shown for line in _wrapped(row, room)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]


def _wrapped(row: list[str], room: int) -> list[list[str]]:
    """A row as rows whose last cells are at most `room` wide; the others are blank after the first."""
    import textwrap

    first, *more = textwrap.wrap(row[-1], room) or [""]
    return [[*row[:-1], first], *([*[""] * (len(row) - 1), text] for text in more)]
