"""Hold docstrings, comments and messages to plain English: verb first, no riddles."""

import ast
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("sana_cli", "quant", "calibration", "benchmarks", "training")
# A docstring that begins so names no subject: "What of a file is not used" -> "List unused parts of a file".
RIDDLE = re.compile(r"(What|Of|One|Whether|Those|How|Who|Whose|Which|Where|As|So that)\b")
# Words of another language's syntax, and what to write instead.
PLAIN = (
    r"left away|leave \S+ away",  # omit
    r"behind",  # after
    r"go on|goes on|going on",  # resume, continue
    r"told|tells?",  # shown, shows, stored
    r"beside",  # next to, compared with
    r"anew",  # again
)
PLAIN_WORDS = re.compile(rf"\b(?:{'|'.join(PLAIN)})\b", re.IGNORECASE)


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def riddles(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and first words of each docstring that begins with a riddle."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if RIDDLE.match(text):
                yield node.body[0].lineno, text.splitlines()[0]


def words(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and advice for each word of PLAIN in comments and texts, not in names of the code."""
    if not PLAIN_WORDS.search(path.read_text(encoding="utf-8")):
        return
    texts = {
        tokenize.COMMENT,
        tokenize.STRING,
        getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING),
    }
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type in texts and (found := PLAIN_WORDS.search(token.string)):
                yield token.start[0], found[0]


def listed(found: Iterable[tuple[Path, int, str]]) -> str:
    return "\n".join(f"{path.relative_to(ROOT)}:{line} {text}" for path, line, text in found)


def test_docstrings_begin_with_a_verb_or_name_their_subject() -> None:
    found = [(path, *at) for path in sources() for at in riddles(path.read_text(encoding="utf-8"))]
    assert not found, listed(found)


def test_texts_use_plain_words() -> None:
    found = [(path, *at) for path in sources() for at in words(path)]
    assert not found, listed(found)


@pytest.mark.parametrize(
    "first", ["What a run takes.", "Whether it fits.", "As `read`.", "One part."]
)
def test_riddles_are_found(first: str) -> None:
    assert list(riddles(f'def f():\n    """{first}"""\n')) == [(2, first)]


@pytest.mark.parametrize(
    "line", ["x = 1  # read anew", 'y = "leave --model away"', 'z = f"goes on {1}"']
)
def test_words_are_found(line: str, tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(line + "\n", encoding="utf-8")
    assert [at for at, _ in words(file)] == [1]


def test_names_in_code_are_not_words(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("start = file.tell()\n", encoding="utf-8")
    assert list(words(file)) == []
