"""Plain command lines of `sana generate`: read as Typer reads them, or left to it."""

import pytest

from sana_cli.commands.plain_generate import plain_words
from sana_cli.commands.verbs import command
from sana_cli.config.generation import FIELDS

VALUES = {"text": "x.png", "whole number": "64", "number": "0.5"}
PLAIN = [
    (f"--{field.word}".replace("_", "-") if flag.startswith("--") else flag, value)
    for field in FIELDS.values() if field.value in VALUES and field.name not in ("decode", "tile")
    for flag in field.option.flags
    for value in ([str(choice) for choice in field.option.choices] if field.option.choices else [VALUES[field.value]])
]  # fmt: skip


def by_typer(words: list[str]) -> dict[str, object]:
    """What Typer reads, without calling the command."""
    return dict(command("generate").make_context("generate", list(words)).params)


@pytest.mark.parametrize(("flag", "value"), PLAIN, ids=lambda value: str(value))
@pytest.mark.parametrize("joined", [False, True], ids=["apart", "joined"])
def test_an_option_is_read_as_by_typer(flag: str, value: str, joined: bool) -> None:
    if joined and not flag.startswith("--"):
        return
    words = ["a cat", f"{flag}={value}"] if joined else [flag, value, "a cat"]
    read, typer_s = plain_words(["generate", *words]), by_typer(words)
    assert read is not None
    for field in FIELDS.values():
        if field.option.flags:
            value_there = typer_s[field.word]
            assert getattr(read.typed, field.name) == value_there or value_there in ([], ())
    assert read.typed.prompt == typer_s["prompt"] == "a cat"


def test_switches_and_server() -> None:
    words = ["generate", "-q", "--json", "a cat", "--force", "--server", "auto", "--size=64x96"]
    read = plain_words(words)
    assert read is not None
    assert read.switches == {"--quiet", "--json", "--force"}
    assert (read.server, read.typed.width, read.typed.height) == ("auto", 64, 96)
    here = plain_words(["generate", "a cat", "--local"])
    assert here is not None
    assert here.switches == {"--local"}


@pytest.mark.parametrize(
    "words",
    [
        ["generate"], ["generate", "-"], ["generate", ""], ["generate", "a", "cat"], ["generate", "--help"],
        ["generate", "a cat", "--steps"], ["generate", "a cat", "--steps", ""], ["generate", "a cat", "--steps", "8,14"],
        ["generate", "a cat", "--seed", "1-4"], ["generate", "a cat", "--seed", "random"], ["generate", "a cat", "--seed", "-1"],
        ["generate", "a cat", "--seed", "٣"], ["generate", "a cat", "--seed", "1_0"], ["generate", "a cat", "--guidance", "1e3"],
        ["generate", "a cat", "--seed", "1", "--seed", "2"], ["generate", "a cat", "-m", "builtin", "--model", "x"],
        ["generate", "a cat", "--scheduler", "ddim"], ["generate", "a cat", "--lora", "x"], ["generate", "a cat", "--wildcards"],
        ["generate", "a cat", "--model", "a,b"], ["generate", "a cat", "--size", "64x64", "--width", "64"],
        ["generate", "a cat", "--aspect", "16:9", "--width", "64"], ["generate", "a cat", "--aspect", "16:9", "--height", "64"],
        ["generate", "a cat", "--size", "64x"], ["generate", "a cat", "--local=1"], ["generate", "a cat", "-n2"],
        ["generate", "--", "a cat"], ["generate", "-v", "a cat"], ["generate", "a cat", "--from", "x.png"],
        ["generate", "a cat", "--force=1"], ["generate", "a cat", "--stepps", "3"], ["generate", "a cat", "--decode", "whole"],
        ["generate", "--prompts", "x"], ["generate", "a cat", "--negative", "--json"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_any_other_line_is_left_to_typer(words: list[str]) -> None:
    assert plain_words(words) is None
