"""Patterns for the names of pictures."""

from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode, SanaError
from sana_cli.images.file_names import Named, expand

PICTURES = [("a red fox", 7), ("an owl", 255)]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{index}-{slug}.png", ["1-a-red-fox.png", "2-an-owl.png"]),
        ("{index:03}.png", ["001.png", "002.png"]),
        ("{index:_>3}-{seed:x}.png", ["__1-7.png", "__2-ff.png"]),
        ("{seed:08d}.png", ["00000007.png", "00000255.png"]),
        ("{slug:.3}-{seed}.png", ["a-r-7.png", "an--255.png"]),
        ("{slug:-<12}.png", ["a-red-fox---.png", "an-owl------.png"]),
        ("{{{index}}}.png", ["{1}.png", "{2}.png"]),
    ],
)
def test_formats(pattern: str, names: list[str]) -> None:
    assert [str(path) for path in expand(Path(pattern), PICTURES)] == names


@pytest.mark.parametrize("field", ["index", "seed", "slug"])
@pytest.mark.parametrize(
    "how",
    [
        "999999999", "0999999999", ">999999999", "<999999999", "x^1000", ".999999999", "1.999999999f", "100",
        "{seed}", "{index}{index}{index}", "/>9", "c", "e", "f", "%", "n", ",", "+", " ",
        "99999999999999999999999999",
    ],
)  # fmt: skip
def test_formats_that_fill_the_memory_or_make_no_names(field: str, how: str) -> None:
    with pytest.raises(SanaError, match=r"not a valid format|--output") as caught:
        expand(Path(f"{{{field}:{how}}}-{{seed}}.png"), PICTURES)
    assert caught.value.code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("pattern", "pictures", "message", "hint"),
    [
        ("{seed}.png", [Named("a", 1, id="steps2"), Named("a", 1, id="steps4")],
         "--output {seed}.png has 1 name for 2 pictures", "add {id} or {index} to it"),
        ("{slug}.png", [("a", 1), ("a", 2), ("b", 1)],
         "--output {slug}.png has 2 names for 3 pictures", "add {index} or {seed} to it"),
        ("x-{seed}.png", [("a", 1), ("b", 1)], "has 1 name for 2 pictures", "add {index} or {slug} to it"),
        ("{id}.png", [Named("a", 1, id="x:"), Named("a", 1, id="x")], "has 1 name for 2", "add {index} to it"),
    ],
)  # fmt: skip
def test_the_hint_names_only_fields_that_tell_pictures_apart(
    pattern: str, pictures: list[Any], message: str, hint: str
) -> None:
    with pytest.raises(SanaError) as caught:
        expand(Path(pattern), pictures)
    assert message in caught.value.message
    assert caught.value.hint == hint
