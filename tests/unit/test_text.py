"""What is printed: one line a value, whoever wrote it; commands to copy to the character; JSON in any encoding."""

import json
import logging
import subprocess
import sys
import tomllib
import unicodedata
from collections.abc import Callable

import pytest

from sana_cli.text import (
    closest,
    columns,
    did_you_mean,
    json_text,
    message_line,
    one_line,
    parsers_words,
    shell_command,
    shortened,
    slug,
    yes_or_no,
)

STEERING = {
    "line feed": "\n",
    "carriage return": "\r",
    "escape sequence": "\x1b[2K\x1b[1A",
    "8-bit sequence": "\x9b31m",
    "bell": "\x07",
    "backspace": "\b",
    "delete": "\x7f",
    "next line": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "override": "\u202e",
    "isolate": "\u2066",
    "arabic mark": "\u061c",
    "broken UTF-8": "\udcff",
}
WORDS = {
    "joiner": "\U0001f469\u200d\U0001f680 cat",
    "wide space": "a cat\u3000on blue",
    "non-joiner": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "no-break space": "caf\u00a0cat",
    "flag of tags": "\U0001f3f4\U000e0067\U000e0062\U000e007f",
    "two spaces": "a  cat",
    "codes and markup": "a [cat:dog:0.5] :cat: [bold]x[/bold]",
    "quotes": """it's "a" \\ $HOME `x` !""",
}


@pytest.mark.parametrize("text", STEERING.values(), ids=STEERING)
def test_what_steers_is_escaped(text: str) -> None:
    for shown in (one_line(f"a{text}b"), message_line(f"a{text}b"), *columns([(f"a{text}b", "c")])):
        assert len(shown.splitlines()) == 1
        assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in shown)
        assert text[0] not in shown
        assert shown.startswith("a\\")


@pytest.mark.parametrize("text", WORDS.values(), ids=WORDS)
def test_words_stay_as_they_are(text: str) -> None:
    assert one_line(text) == message_line(text) == text


@pytest.mark.parametrize("text", [*WORDS.values(), *STEERING.values(), "a\tcat", "", "-n", "'\n'"])
def test_a_shell_reads_words_back(text: str) -> None:
    command = shell_command(["printf", "%s", text])
    assert len(command.splitlines()) == 1
    output = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    assert output == text.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "gbk", "ascii", "iso8859-1", "utf-16"])
def test_json_in_any_encoding(encoding: str) -> None:
    document = {"words": [*WORDS.values(), *STEERING.values()], "café 🐱": 1.5}
    text = json_text(document, encoding)
    assert len(text.splitlines()) == 1
    assert json.loads(text.encode(encoding).decode(encoding)) == document
    assert not any(c in text for c in ("\x1b", "\x9b", "\u202e", "\u2028"))


def test_numbers_that_json_lacks() -> None:
    document = {"a": [float("nan"), {"b": (float("inf"), 1.0)}]}
    assert json_text(document, "utf-8") == '{"a": [null, {"b": [null, 1.0]}]}'


def test_long_values_are_cut() -> None:
    assert shortened("x" * 200) == "x" * 200
    cut = message_line(f"cannot read {'9' * 5000} as a number")
    assert len(cut) < 250
    assert cut.endswith(" as a number")
    assert len(message_line("a " * 10_000)) <= 1000
    assert message_line(f"no such file: /{'d' * 400}/name.png").endswith("name.png")


def test_logs_and_warnings_keep_to_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    from sana_cli.terminal.logs import set_up

    set_up(1)
    logging.getLogger("sana.test").info("%s", "a\nerror: forged\x1b[0m")
    assert capsys.readouterr().err.endswith("sana.test: a\\nerror: forged\\x1b[0m\n")


def test_warnings_of_libraries_do_not_reach_stderr() -> None:
    program = (
        "import logging, warnings; from sana_cli.terminal.logs import set_up; set_up(0);"
        "warnings.warn('from a library'); logging.getLogger('PIL.X').error('raised, too')"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert run.stderr == ""


def test_a_notice_has_the_words_of_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    from sana_cli.terminal.progress_bars import ConsoleReporter

    ConsoleReporter().notice("a [cat:dog:0.5] :cat: [bold]x[/bold]\nerror: forged")
    expected = "note: a [cat:dog:0.5] :cat: [bold]x[/bold]\\nerror: forged\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("नमस्ते बिल्ली", "नमस्ते-बिल्ली"),
        ("แมวที่น้ำ", "แมวที่น้ำ"),
        ("cafe\u0301 cat", "cafe\u0301-cat"),
        ("\u0301cat", "cat"),
        ("❤\ufe0f cat", "cat"),
        ("1\ufe0f cat", "1-cat"),
    ],
)
def test_slugs_keep_marks(prompt: str, name: str) -> None:
    assert slug(prompt) == name


@pytest.mark.parametrize("prompt", ["con", "PRN", "aux", "nul", "com1", "LPT9"])
def test_no_picture_is_named_after_a_device_of_windows(prompt: str) -> None:
    assert slug(prompt) == f"{prompt.lower()}-picture"
    assert slug(f"{prompt} cat") != slug(prompt)


def test_a_slug_is_not_cut_within_a_letter() -> None:
    assert slug("x" * 45 + "e\u0301\u0302") == "x" * 45
    assert slug("स्ते" * 20).encode().decode() == slug("स्ते" * 20)
    assert len(slug("स्ते" * 20).encode()) <= 48


@pytest.mark.parametrize(
    ("word", "meant"),
    [("stesp", ", did you mean 'steps'?"), ("sede", ", did you mean 'seed'?"), ("zebra", "")],
)
def test_did_you_mean(word: str, meant: str) -> None:
    assert did_you_mean(word, {"steps": 1, "seed": 2}) == meant


def test_closest_takes_anything_at_no_cutoff() -> None:
    assert closest("x", ["steps"]) is None
    assert closest("x", ["steps"], cutoff=0.0) == "steps"
    assert closest("x", []) is None


def test_values_for_people_are_not_those_of_python() -> None:
    assert [yes_or_no(value) for value in (True, False, 1, 0.5, "a")] == ["yes", "no", "1", "0.5", "a"]  # fmt: skip


@pytest.mark.parametrize("read", [json.loads, tomllib.loads])
def test_a_number_that_python_refuses(read: Callable[[str], object]) -> None:
    """Its remedy is a function of Python, which nobody here can call."""
    digits = "9" * 5000
    with pytest.raises(ValueError, match="digits") as caught:
        read(digits if read is json.loads else f"steps = {digits}")
    assert parsers_words(caught.value) == "it holds a number of thousands of digits"
