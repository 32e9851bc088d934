"""What calibration draws."""

from pathlib import Path

import pytest

from calibration.prompts import (
    OWN_PROMPTS,
    compared_prompts,
    prompts_for,
    read_prompts,
    vocabulary_prompts,
)
from sana_cli.errors import ExitCode, SanaError

VOCABULARY = {
    "animals": ["cat", "fox"],
    "backgrounds": ["red", "blue"],
    "sizes": ["small", "large"],
    "other words": ["a", "on", "background"],
}


def test_our_own() -> None:
    prompts = prompts_for(None)
    assert prompts == read_prompts(OWN_PROMPTS)
    assert len(prompts) == len(set(prompts)) == 64
    assert not set(compared_prompts(None)) & set(prompts)


def test_sentences_of_a_closed_vocabulary() -> None:
    known = {word for words in VOCABULARY.values() for word in words}
    prompts = prompts_for(VOCABULARY)
    assert len(prompts) == 64
    assert {word for prompt in prompts for word in prompt.split()} <= known
    assert all(prompt.endswith("background") for prompt in prompts)
    assert prompts == prompts_for(VOCABULARY), "the same every time"


def test_a_vocabulary_that_no_sentence_fits() -> None:
    prompts = vocabulary_prompts({"formes": ["rond", "carre"]}, 5, seed=0)
    assert len(prompts) == 5
    assert {word for prompt in prompts for word in prompt.split()} <= {"rond", "carre"}


def test_compared_prompts_of_a_vocabulary() -> None:
    assert len(compared_prompts(VOCABULARY)) == 4


def test_compared_prompts_have_the_article_that_belongs_to_a_word() -> None:
    """Where a vocabulary knows "an"."""
    few = {"animals": ["owl"], "backgrounds": ["orange"], "sizes": ["big"]}
    words = ["a", "on", "background"]
    assert "a big owl on an orange background" in compared_prompts({**few, "other": [*words, "an"]})
    assert "a big owl on a orange background" in compared_prompts({**few, "other": words})


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeff# mine\n\n a fox \nthe sea\r\n", encoding="utf-8")
    assert read_prompts(path) == ["a fox", "the sea"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"", "holds no prompt"),
        (b"# only comments\n\n", "holds no prompt"),
        (b"caf\xe9\n", "not UTF-8"),
        (b'{"prompt": " "}', "is empty"),
        (b"x" * 30_000, "too long"),
    ],
    ids=["missing", "empty", "comments", "latin-1", "blank", "long"],
)
def test_bad_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SanaError, match=message) as caught:
        read_prompts(path)
    assert caught.value.code == ExitCode.USAGE


def test_forms_are_those_of_generate(tmp_path: Path) -> None:
    path, heard = tmp_path / "cal.jsonl", []
    path.write_text('{"prompt": "a cat", "seed": 3, "tag": 1}\n{"prompt": "an owl"}\n')
    assert read_prompts(path, notice=heard.append) == ["a cat", "an owl"]
    assert len(heard) == 2
    assert "tag" in heard[0]
    assert "calibration uses the prompts alone" in heard[1]


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SanaError, match="holds no prompts"):
        read_prompts(tmp_path)
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"prompt {name}\n")
    assert read_prompts(tmp_path) == ["prompt a", "prompt b"]
