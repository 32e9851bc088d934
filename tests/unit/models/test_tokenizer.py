"""Tokenizers of strangers: files that are none, and those whose patterns give up on a prompt."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode, SanaError
from sana_cli.memory.text_sizes import count_tokens
from sana_cli.models.tokenizer import Tokenizer, load_tokenizer

PATTERN = {"type": "Replace", "pattern": {"Regex": "((a|aa|[a-z ])+)+!"}, "content": ""}
PROMPT = "a cat on a blue background with a tree"


@pytest.fixture
def panicking(tiny_model: Path, tmp_path: Path) -> Path:
    """A model folder whose tokenizer panics at a prompt; only the tokenizer is there."""
    values = json.loads((tiny_model / "tokenizer/tokenizer.json").read_text())
    path = tmp_path / "tokenizer/tokenizer.json"
    path.parent.mkdir()
    path.write_text(json.dumps(values | {"normalizer": PATTERN}))
    return tmp_path


def test_a_panic_is_one_error(panicking: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = load_tokenizer(panicking / "tokenizer")
    with pytest.raises(SanaError, match="cannot read the prompt") as caught:
        tokenizer.encode(PROMPT)
    assert "\n" not in caught.value.message
    assert caught.value.code == ExitCode.CHECKPOINT
    assert capfd.readouterr().err == ""


def test_a_prediction_does_without(panicking: Path) -> None:
    assert count_tokens(panicking, PROMPT) == len(PROMPT) // 4 + 1


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff", b"[" * 10**4, b'{"version": "1.0", "model": {"type": "BPE"}}']
)
def test_what_is_no_tokenizer(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(SanaError, match="not a readable tokenizer"):
        Tokenizer(path, {})


def test_a_pointer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SanaError, match="git-lfs pointer"):
        load_tokenizer(tmp_path)


def test_half_a_character_is_no_token(tiny_model: Path) -> None:
    path = tiny_model / "tokenizer/tokenizer.json"
    assert Tokenizer(path, {"unk_token": "\ud800"}).unk_token_id is None


def test_generate_says_so(
    sana: Callable[..., Any], panicking: Path, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(
        tiny_model, panicking, dirs_exist_ok=True, ignore=shutil.ignore_patterns("tokenizer")
    )
    result = sana("generate", PROMPT, "-m", panicking, "--size", "64x64", "-o", tmp_path / "a.png")
    assert result.code == ExitCode.CHECKPOINT
    assert "error: the tokenizer cannot read the prompt" in result.err
    assert not (tmp_path / "a.png").exists()
