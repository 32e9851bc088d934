"""Wherever text of people is read, it may come from any editor, and its lines end at LF, CRLF and CR only."""

import codecs
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from calibration.prompts import read_prompts
from sana_cli.checkpoints.model_files import read_json
from sana_cli.config.settings_file import set_value
from sana_cli.config.user_settings import read_config_file
from sana_cli.errors import SanaError
from sana_cli.request.prompt_file import read_prompt_file
from sana_cli.terminal.line_reader import piped_lines
from sana_cli.terminal.piped import piped_prompt

Read = Callable[[Path, pytest.MonkeyPatch], list[str]]


def prompts(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return [str(line.options.prompt) for line in read_prompt_file(str(path)).lines]


def calibration(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return read_prompts(path)


def piped(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    return prompts(Path("-"), monkeypatch)


def session(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    return [line for line in piped_lines() if line]


LINES: list[Read] = [prompts, calibration, piped, session]


@pytest.mark.parametrize("read", LINES)
@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\x1e"])
def test_what_ends_no_line(
    read: Read, character: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p").write_bytes(f"a{character}cat\nan owl\n".encode())
    assert read(tmp_path / "p", monkeypatch) == [f"a{character}cat", "an owl"]


@pytest.mark.parametrize("read", LINES)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_ends_a_line(
    read: Read, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p").write_bytes(codecs.BOM_UTF8 + f"a cat{end}an owl{end}".encode())
    assert read(tmp_path / "p", monkeypatch) == ["a cat", "an owl"]


def one_prompt(path: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    return piped_prompt(asked=True)


def settings(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("SANA_CONFIG", str(path))
    return int(str(read_config_file()["steps"]))


def changed_settings(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("SANA_CONFIG", str(path))
    set_value("guidance", 3.0)
    assert read_config_file()["guidance"] == 3.0
    return settings(path, monkeypatch)


def model_json(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    return int(read_json(path)["steps"])


# what is read, what a file holds, and what that is
WHOLE = [
    (prompts, "a café", ["a café"]),
    (calibration, "a café", ["a café"]),
    (piped, "a café", ["a café"]),
    (one_prompt, "a café", "a café"),
    (settings, "steps = 2 # é\r\n", 2),
    (changed_settings, "steps = 2 # é\r\n", 2),
    (model_json, '{"steps": 2, "é": 1}', 2),
]


@pytest.mark.parametrize(("read", "text", "expected"), WHOLE)
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
        (b"", "utf-16-le"), (b"", "utf-16-be"), (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)  # fmt: skip
def test_what_editors_save(
    read: Callable[..., object], text: str, expected: object, mark: bytes, encoding: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "x").write_bytes(mark + text.encode(encoding))
    assert read(tmp_path / "x", monkeypatch) == expected


@pytest.mark.parametrize("read", [read for read, *_ in WHOLE])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"steps = 2 # a\0b", "NUL"),
        (b"caf\xe9", "not UTF-8"),
        (b"\xff\xfe\x00\xd8a\0", "not UTF-16"),
    ],
)
def test_what_is_refused_by_name(
    read: Callable[..., object], data: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(SanaError) as caught:
        read(tmp_path / "x", monkeypatch)
    assert reason in caught.value.message
