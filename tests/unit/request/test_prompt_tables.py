"""Tables of prompts: which line names the columns, what separates them, and what each row says."""

import pytest

from sana_cli.request.prompt_entries import Entry, UnreadableForm
from sana_cli.request.prompt_tables import delimiter_of, entries_of_table


def read(text: str, delimiter: str = ",") -> list[Entry]:
    return list(entries_of_table(text, delimiter))


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [
        ("prompt,seed", ","), ("seed;Prompt", ";"), ("PROMPTS\tseed", "\t"), ("id| prompt |x", "|"), ('"prompt","a"', ","),
        ("prompt", None), ("a cat, a dog", None), ("prompts of mine, all", None), ("", None),
        ("prompt," + "x" * 6000, None),
    ],
)  # fmt: skip
def test_a_line_that_names_columns(header: str, delimiter: str | None) -> None:
    assert delimiter_of(header) == delimiter


def test_rows() -> None:
    """Empty cells say nothing; places are the lines of the file on which rows begin."""
    rows = read('\nid,Prompts, seed ,\n1,"a cat,\nasleep",,\n\n2,an owl,5,\n')
    assert [(str(row.place), dict(row.said)) for row in rows] == [
        ("line 3", {"id": "1", "prompt": "a cat,\nasleep"}),
        ("line 6", {"id": "2", "prompt": "an owl", "seed": "5"}),
    ]
    assert all(row.is_typed for row in rows)


def test_cells_that_nobody_quoted() -> None:
    (row,) = read("prompt,seed\na cat, asleep,5\n")
    assert "has 3 columns, the first line 2" in row.problem
    (row,) = read("prompt,seed\na cat,5,,\n")
    assert row.said == {"prompt": "a cat", "seed": "5"}, "empty ones are of no harm"


def test_quotes_are_characters_between_tabs() -> None:
    (row,) = read('prompt\tnote\n"Stop" on a sign\tx\n', "\t")
    assert row.said["prompt"] == '"Stop" on a sign'


@pytest.mark.parametrize(
    ("text", "delimiter", "message"),
    [
        ("words\na cat\n", ",", "has no column `prompt` in its first line, which is 'words'"),
        ('prompt,a\n"a cat', ",", "is not a readable table"),
        ("prompt\ta\n" + "x" * 140_000, "\t", "is not a readable table"),
    ],
    ids=["no column", "open quote", "endless cell"],
)
def test_what_is_no_table(text: str, delimiter: str, message: str) -> None:
    with pytest.raises(UnreadableForm, match=message):
        read(text, delimiter)


def test_an_empty_one_has_no_rows() -> None:
    assert read("") == read("\n \n") == read("prompt,seed\n") == []
