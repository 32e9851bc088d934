"""Numbers and LoRAs in other programs' settings, which are whatever a file says."""

import pytest

from sana_cli.images.foreign_settings import ForeignSettings, number_of, seed_of, whole_of


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7), ("7", 7), (" 7 ", 7), (7.0, 7), (7.5, None), ("7.5", None), (True, None), (None, None),
        ("9" * 30, None), (float("inf"), None), (float("nan"), None), ([7], None), ("-3", -3),
    ],
)  # fmt: skip
def test_whole_numbers(value: object, expected: int | None) -> None:
    assert whole_of(value) == expected


def test_seeds_are_in_their_range() -> None:
    assert seed_of(2**64 - 1) == 2**64 - 1
    assert seed_of("-1") is None
    assert seed_of(2**64) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("6.5", 6.5),
        (3, 3.0),
        ("nan", None),
        ("1e999", None),
        ("a", None),
        (False, None),
        ({}, None),
    ],
)
def test_numbers(value: object, expected: float | None) -> None:
    assert number_of(value) == expected


def test_loras_are_taken_from_the_prompt() -> None:
    prompt = "a fox <lora:style:0.8>, at night<lyco:x:1:2>"
    foreign = ForeignSettings(program="", prompt=prompt, negative_prompt="", size="64x64")
    assert foreign.loras == ["style", "x"]
    assert foreign.plain_prompt == "a fox, at night"
