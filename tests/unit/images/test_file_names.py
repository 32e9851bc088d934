"""Patterns for the names of pictures."""

from pathlib import Path

import pytest

from sana_cli.errors import ExitCode, SanaError
from sana_cli.images.file_names import expand

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
