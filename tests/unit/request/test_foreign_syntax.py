"""Other programs' instructions in prompts are told once, and words are left alone."""

import pytest

from sana_cli.request.foreign_syntax import tell_foreign_syntax


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("a fox <lora:style:0.8>, snow", "<lora:style:0.8>"),
        ("<embedding:x> fox", "<embedding:x>"),
        ("a (red:1.3) fox", "(red:1.3)"),
        ("a (red fox: .5)", "(red fox: .5)"),
        ("a [cat:dog:0.5]", "[cat:dog:0.5]"),
        ("a {red|blue} fox", "{red|blue}"),
        ("a fox --ar 16:9", "--ar 16:9"),
        ("a ((red) fox)", "((red)"),
        ("a (red)++ fox", "(red)++"),
        ("a fox::2 snow::-0.5", "fox::2, snow::-0.5"),
        ("a fox, embedding:style.pt", "embedding:style.pt"),
        ("a __animal__ at dawn", "__animal__"),
        ("a fox AND an owl BREAK snow", "AND, BREAK"),
        ("- a fox", "- "),
        ("2. a fox", "2. "),
        ("a fox --no-text", "--no-text"),
    ],
)
def test_instructions(prompt: str, shown: str) -> None:
    notice = tell_foreign_syntax([prompt])
    assert notice is not None
    assert notice.partition(": ")[2].partition(";")[0] == shown
    assert ("--lora FILE:SCALE" in notice) == prompt.startswith(("a fox <", "<"))


@pytest.mark.parametrize(
    "prompt",
    [
        "a red fox", "a fox (red, at dawn)", "a sign: stop (12:30)", "a well-lit fox -- at dawn", "[cat] in a {hat}",
        "--ar at the beginning", "a < b > c", "", "A FOX AND AN OWL", "a C++ book", "2.5 foxes", "snake_case", "-- a fox", "std::vector",
    ],
)  # fmt: skip
def test_words(prompt: str) -> None:
    assert tell_foreign_syntax([prompt]) is None


def test_one_notice_for_many_prompts() -> None:
    """With each instruction once, and three of them at most."""
    notice = tell_foreign_syntax(["(a:1.1) (a:1.1)", "b", "(c:1.2) (d:1.3)", "(e:1.4)"])
    assert notice is not None
    assert notice.endswith(": (a:1.1), (c:1.2), (d:1.3)")


def test_choices_that_are_to_be_words_are_not_told() -> None:
    """Only those, and only of the prompts that say so."""
    plain = "a {red|blue} __animal__"
    assert tell_foreign_syntax([plain], {plain}) is None
    notice = tell_foreign_syntax(
        [plain, f"{plain} (fox:1.3)", "{x|y}"], {plain, f"{plain} (fox:1.3)"}
    )
    assert notice is not None
    assert notice.endswith(": (fox:1.3), {x|y}; --wildcards chooses among {a|b} and __name__")
