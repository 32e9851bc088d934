"""Files of prompts: one a line, or one JSON object a line with settings of its own. No torch."""

import difflib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sana_cli.errors import ExitCode, SanaError
from sana_cli.options import Scheduler, parse_size
from sana_cli.wishes import Wishes

# keys of a line of JSON, and what their values are
_KEYS: dict[str, tuple[type, ...]] = {
    "prompt": (str,), "negative": (str,), "seed": (int,), "steps": (int,), "guidance": (int, float),
    "size": (str,), "width": (int,), "height": (int,), "aspect": (str,), "bins": (bool,),
    "guidance_interval": (str,), "cache": (int, float), "scheduler": (str,), "enhance": (bool,),
    "image": (str,), "strength": (int, float), "mask": (str,),
    "lora": (str, list),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line that asks for a picture."""

    number: int  # in the file, from 1
    wishes: Wishes


def read_lines(name: str) -> list[Line]:
    """The lines of a file, or of standard input if its name is `-`. SanaError names the line that is wrong.

    Empty lines and those that begin with `#` are left out. A name that ends in `.jsonl`, or input that begins with a
    brace, is read as JSON lines.
    """
    text = _read(name)
    numbered = [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not numbered:
        raise SanaError(
            f"{_called(name)} holds no prompts",
            hint="write one a line, or one JSON object a line",
            code=ExitCode.USAGE,
        )
    is_json = name.lower().endswith(".jsonl") or (name == "-" and numbered[0][1].startswith("{"))
    read = _from_json if is_json else _from_text
    return [Line(number=n, wishes=read(line, f"{_called(name)}, line {n}")) for n, line in numbered]


def _read(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).expanduser().read_bytes()
        return data.decode("utf-8-sig")
    except (OSError, ValueError, RuntimeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else reason
        raise SanaError(
            f"cannot read {_called(name)}: {reason}",
            hint="--prompts takes a text file, a .jsonl file, or - for standard input",
            code=ExitCode.USAGE,
        ) from error


def _called(name: str) -> str:
    return "standard input" if name == "-" else name


def _from_text(line: str, where: str) -> Wishes:
    return Wishes(prompt=line)


def _from_json(line: str, where: str) -> Wishes:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _wrong(where, f"is not JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("prompt"), str):
        raise _wrong(where, 'is no object with a "prompt"')
    for key, value in values.items():
        _check(where, key, value)
    if size := values.pop("size", None):
        if "width" in values or "height" in values:
            raise _wrong(where, "has a size twice: size, and width or height")
        try:
            values["width"], values["height"] = parse_size(size)
        except SanaError as error:
            raise _wrong(where, f"has an unreadable size {size!r}") from error
    if "aspect" in values and ("width" in values or "height" in values):
        raise _wrong(where, "has a size and an aspect")
    if (lora := values.pop("lora", None)) is not None:
        values["loras"] = (lora,) if isinstance(lora, str) else tuple(lora)
        if not all(isinstance(text, str) for text in values["loras"]):
            raise _wrong(where, f"has an unusable 'lora': {lora!r}")
    return Wishes(**values)


def _check(where: str, key: str, value: Any) -> None:
    if key not in _KEYS:
        close = difflib.get_close_matches(key, _KEYS, n=1)
        raise _wrong(
            where,
            f"has an unknown key {key!r}" + (f", did you mean {close[0]!r}?" if close else ""),
        )
    if type(value) not in _KEYS[key]:
        raise _wrong(where, f"has an unusable {key!r}: {value!r}")
    if key == "scheduler" and value not in list(Scheduler):
        raise _wrong(where, f"has an unknown scheduler {value!r}")


def _wrong(where: str, problem: str) -> SanaError:
    return SanaError(
        f"{where} {problem}",
        hint=f'a line is {{"prompt": "a red fox"}}; further keys: {", ".join(list(_KEYS)[1:])}',
        code=ExitCode.USAGE,
    )
