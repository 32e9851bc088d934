"""The README: short, and with the figures of the measurements that it names."""

import re
from pathlib import Path

import pytest

from benchmarks import readme_figures

README = Path(__file__).parents[2] / "README.md"
FIGURE = re.compile(r"\b\d+(?:\.\d+)? (?:s|ms|seconds|times|MiB|GiB|dB|prompts)\b")


def test_it_is_read_in_one_sitting() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def test_figures_are_those_of_the_results() -> None:
    text = README.read_text(encoding="utf-8")
    assert readme_figures.replaced(text) == text, "python -m benchmarks.readme_figures"


def test_figures_stand_nowhere_else() -> None:
    text = README.read_text(encoding="utf-8").replace(readme_figures.figures(), "")
    assert FIGURE.findall(text) == []
    assert FIGURE.findall(readme_figures.figures()), "the pattern finds those that are there"


def test_other_figures_are_found() -> None:
    text = README.read_text(encoding="utf-8")
    changed = text.replace(" GiB", " GB", 1)
    assert readme_figures.replaced(changed) != changed


def test_a_readme_without_marks() -> None:
    with pytest.raises(ValueError, match="substring not found"):
        readme_figures.replaced("# sana\n")
