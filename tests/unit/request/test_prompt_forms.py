"""The form of a prompt file is found by its content; `test_prompt_file.py` reads files to the end."""

from typing import Any

import pytest

from sana_cli.request.prompt_entries import UnreadableForm
from sana_cli.request.prompt_forms import read_entries


def said(text: str, name: str = "p.txt") -> list[dict[str, Any]]:
    entries = read_entries(text, name).entries
    assert not [entry.problem for entry in entries if entry.problem]
    return [dict(entry.said) for entry in entries]


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.json", "p"])
@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "a", "seed": 1}\n{"prompt": "b"}\n',
        '[{"prompt": "a", "seed": 1}, {"prompt": "b"}]',
        '{"prompts": [{"prompt": "a", "seed": 1}, {"prompt": "b"}]}',
    ],
    ids=["lines", "array", "document"],
)
def test_json(text: str, name: str) -> None:
    assert said(text, name) == [{"prompt": "a", "seed": 1}, {"prompt": "b"}]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ('["a", "b"]', ["item 1", "item 2"]),
        ('# note\n{"prompt": "a"}\n', ["line 2"]),
        ('{\n"prompt": "a"\n}', ["item 1"]),
        ("a\n\nb\n", ["line 1", "line 3"]),
        ("prompt,x\na,1\n", ["line 2"]),
    ],
)
def test_places(text: str, places: list[str]) -> None:
    assert [str(entry.place) for entry in read_entries(text, "p.txt").entries] == places


def test_prompts_by_their_ids() -> None:
    found = said('{"one": {"prompt": "a"}, "two": {"prompt": "b", "id": "2"}}')
    assert found == [{"id": "one", "prompt": "a"}, {"id": "2", "prompt": "b"}]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("p.csv", "prompt\na cat", [{"prompt": "a cat"}]),
        ("p.txt", "Prompt\na cat", [{"prompt": "a cat"}]),
        ("p.txt", '"prompt"\n"a cat, an owl"', [{"prompt": "a cat, an owl"}]),
        ("p.txt", "prompt", [{"prompt": "prompt"}]),
        ("p.CSV", "prompt;seed\na cat;1", [{"prompt": "a cat", "seed": "1"}]),
        ("p.csv", '[{"prompt": "a"}]', [{"prompt": "a"}]),
    ],
)
def test_a_name_decides_what_could_be_text(
    name: str, text: str, expected: list[dict[str, str]]
) -> None:
    assert said(text, name) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--prompt a cat --seed 3", {"prompt": "a cat", "seed": "3"}),
        ('--prompt="a cat" --no-enhance', {"prompt": "a cat", "no-enhance": ""}),
        ("--prompt a --lora x --lora y", {"prompt": "a", "lora": "x y"}),
        ("a cat --seed 3", {"prompt": "a cat --seed 3"}),
        ("-- a cat", {"prompt": "-- a cat"}),
    ],
)
def test_lines(line: str, expected: dict[str, str]) -> None:
    assert said(line) == [expected]


def test_one_bad_line_is_one_problem() -> None:
    entries = read_entries('{"prompt": "a"}\nwords\n7\n{"prompt": NaN}\n', "p.jsonl").entries
    problems = [entry.problem for entry in entries]
    assert problems[0] == ""
    assert problems[1].startswith("is not JSON")
    assert problems[2] == 'is no object with a "prompt"'
    assert "NaN is no value of JSON" in problems[3]
    (entry,) = read_entries('--prompt "a cat', "p.txt").entries
    assert entry.problem.startswith("is no line of options")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('[{"a": 1},]', "p.txt"),
        ("{\n'a': 1}", "p.txt"),
        ("words", "p.json"),
        ("[" * 99_999, "p.json"),
    ],
    ids=["array", "spread", "words", "deep"],
)
def test_a_file_that_is_one_broken_document(text: str, name: str) -> None:
    with pytest.raises(UnreadableForm, match="is not JSON"):
        read_entries(text, name)


@pytest.mark.parametrize(
    "text", ['"a \\"big\\" cat"\n"an owl"', '"a \\"big\\" cat",\n# b\n"an owl",\n']
)
def test_lines_that_are_all_quoted(text: str) -> None:
    """As lists in programs are; one line in quotes among others is a prompt with quotes."""
    assert said(text, "p.txt") == [{"prompt": 'a "big" cat'}, {"prompt": "an owl"}]
    assert said('"a cat"\nan owl', "p.txt") == [{"prompt": '"a cat"'}, {"prompt": "an owl"}]


@pytest.mark.parametrize(
    ("text", "name", "what"),
    [
        ("- a cat\n- an owl", "p.yaml", "YAML"), ("prompts:\n  - a cat", "p.txt", "YAML"), ("---\n- a cat", "p", "YAML"),
        ("prompt: a cat\nprompt: an owl", "p.txt", "YAML"), ("<?xml version='1.0'?>", "p.txt", "XML"), ("<p>a cat</p>", "p.xml", "XML"),
        ("<!DOCTYPE html>", "p.txt", "a web page"), ("{\\rtf1 a cat}", "p.txt", "an RTF document"), ("%PDF-1.7", "p.txt", "a PDF document"),
        ("PK\x03\x04x", "p.txt", "an archive"), ('prompts = ["a cat"]', "p.toml", "TOML"),
    ],
)  # fmt: skip
def test_formats_that_are_text_too(text: str, name: str, what: str) -> None:
    with pytest.raises(UnreadableForm, match=f"is {what}.*, which is not read"):
        read_entries(text, name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"prompt": "a", "prompt": "b"}', "p.jsonl"), ('{"prompt": "a", "x": {"y": 1, "y": 2}}', "p.json"),
        ('[{"prompt": "a", "seed": 1, "seed": 2}]', "p.json"), ("prompt,prompt\na,b", "p.csv"), ("prompt,Seed,seed\na,1,2", "p.csv"),
    ],
)  # fmt: skip
def test_nothing_is_said_twice(text: str, name: str) -> None:
    """Which of two values counts would be a guess."""
    try:
        problem = read_entries(text, name).entries[0].problem
    except UnreadableForm as error:
        problem = str(error)
    assert "twice" in problem or "two columns" in problem


def test_comments_are_kept_apart() -> None:
    content = read_entries("# one\na cat\n  # two\n", "p.txt")
    assert content.comments == ((1, "# one"), (3, "  # two"))
    assert len(content.entries) == 1
    assert read_entries("# one\n", "p.txt").comments == ((1, "# one"),)
