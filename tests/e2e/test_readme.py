"""The README's commands do what it says, in its order."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode

README = Path(__file__).parents[2] / "README.md"


def test_commands(
    sana: Callable[..., Any], documents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those with the built-in model run; those with a real one get as far as its missing files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SANA_SIZE", "64x64")  # the usual one takes many times as long
    (tmp_path / "prompts.txt").write_text("a cat\na red circle\n")
    ran = 0
    for words in documents.sana_commands(documents.in_blocks(README.read_text())):
        if words[0] == "decode":  # nothing was interrupted
            result = sana(*words)
            assert (result.code, "no such file" in result.err) == (ExitCode.USAGE, True)
            continue
        if words[0] == "bench":  # minutes, and gigabytes; far enough to know that its options exist
            result = sana(*words, "--runs", 0)
            assert (result.code, "--runs 0" in result.err) == (ExitCode.USAGE, True)
            continue
        if words[0] in ("config", "default"):  # its settings are not for the commands that follow
            with monkeypatch.context() as only_here:
                only_here.setenv("SANA_CONFIG", str(tmp_path / "config.toml"))
                result = sana(*words)
            assert result.code == 0, (words, result.err)
            continue
        if words[0] == "repl":
            typed = io.BytesIO(b"/size 64x64\n/steps 2\na red circle\n")
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(typed))
        if words[0] in ("pull", "remove"):  # of what cannot be downloaded here
            expected = ExitCode.ENVIRONMENT if words[0] == "pull" else ExitCode.USAGE
            assert sana(*words).code == expected, words
            continue
        made = {"small", "sana-0.6b-w8a8"} & set(words)  # by commands that cannot run here
        if (made or "sana-0.6b" in words) and words[0] != "info":
            result = sana(*words, *(() if made else ("--offline",)))
            theirs = "--lora" in words  # a file of the reader's, missed before the model is
            expected = ExitCode.USAGE if made or theirs else ExitCode.ENVIRONMENT
            if words[0] == "quantize":
                expected = ExitCode.ENVIRONMENT
            assert result.code == expected, (words, result.err)
            continue
        if words[0] == "generate":  # what they draw is the business of other tests
            words += ["--device", "cpu", *([] if "--steps" in words else ["--steps", "2"])]
        result = sana(*words)
        assert result.code == 0, (words, result.err)
        ran += 1
    assert ran >= 6
    assert {p.name for p in tmp_path.glob("panda-*.png")} == {
        f"panda-{n}.png" for n in range(7, 11)
    }
