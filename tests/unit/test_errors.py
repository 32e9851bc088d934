"""Errors say what their last reader knew."""

from sana_cli.errors import SanaError


def test_what_is_added_later_is_shown() -> None:
    error = SanaError("a.weight is missing")
    error.message = f"mine is no Sana pipeline: {error.message}"
    assert str(error) == "mine is no Sana pipeline: a.weight is missing"
