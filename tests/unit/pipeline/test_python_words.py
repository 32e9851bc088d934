"""Errors in the words of Python."""

import pytest

from sana_cli.errors import SanaError, usage_error
from sana_cli.pipeline.python_words import in_python, python_words


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("choose another --output, or --force", "choose another path, or overwrite=True"),
        ("use --steps 4 or --strength 0.5 (ignores)", "use steps=4 or strength=0.5 (ignores)"),
        ("name it: --image FILE", 'name it: image="FILE"'),
        ("--decode whole has no tiles", 'decode="whole" has no tiles'),
        ("give --pag or --cache, not both", "give pag or cache, not both"),
        ("--pag 2 or --pag 2:4.", 'pag="2" or pag="2:4".'),
        ("--guidance 3", "guidance_scale=3"),
        ("or --no-wildcards for plain braces", "or wildcards=False for plain braces"),
        ("omit --bins, and use a smaller --size", "omit bins=True, and use a smaller width and height"),
        ("`sana pull x --decoder tiny` gets --decoder tiny", "`sana pull x --decoder tiny` gets decoder tiny"),
        ("draw: sana generate PROMPT --lora x", "draw: sana generate PROMPT --lora x"),
        ("the same command with --debug", "the same command with --debug"),
        ("no/such--image.png", "no/such--image.png"),
    ],
)  # fmt: skip
def test_words(said: str, wanted: str) -> None:
    assert python_words(said) == wanted


def test_an_error_is_told_in_python() -> None:
    with pytest.raises(SanaError) as caught, in_python():
        raise usage_error("--strength 3 is out of range", "use --strength 0.5")
    assert (caught.value.message, caught.value.hint) == (
        "strength=3 is out of range",
        "use strength=0.5",
    )
