"""Places in prompt files, in words, and entries of a folder's files."""

import pytest

from sana_cli.request.prompt_entries import Entry, Place, within


@pytest.mark.parametrize(
    ("file", "words"), [("", "line 3"), ("inner/a.txt", "inner/a.txt, line 3")]
)
def test_places(file: str, words: str) -> None:
    assert str(Place(kind="line", number=3, file=file)) == words


@pytest.mark.parametrize(
    ("said", "name", "expected"),
    [
        ({"prompt": "a"}, "cat", {"id": "cat", "prompt": "a"}),
        ({"prompt": "a", "id": "own"}, "cat", {"id": "own", "prompt": "a"}),
        ({"prompt": "a"}, None, {"prompt": "a"}),
    ],
)
def test_a_file_of_one_prompt_names_it(
    said: dict[str, str], name: str | None, expected: dict[str, str]
) -> None:
    """Unless it has named itself."""
    entry = Entry(place=Place(kind="item", number=1), said=said, is_typed=True)
    found = within(entry, "cat.txt", name)
    assert found.said == expected
    assert (str(found.place), found.is_typed) == ("cat.txt, item 1", True)
