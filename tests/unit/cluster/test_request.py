"""Options that make no sense together are refused before a model or a cluster is looked for."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "p.txt"
    file.write_text("a fox\ntwo frogs\n")
    return file


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--workers", "2"), "--workers needs --ray"),
        (("--manifest", "m.jsonl"), "--manifest needs --ray"),
        (("--ray", "local", "--grid"), "--ray does not go with --grid"),
        (("--ray", "local", "--dry-run"), "--ray does not go with --dry-run"),
        (("--ray", "local", "--local"), "--ray does not go with --local"),
        (("--ray", "local", "--server", "auto"), "--ray does not go with --server"),
        (("--ray", "local", "--show"), "--ray does not go with --show"),
        (("--ray", "local", "--preview"), "--ray does not go with --preview"),
        (("--ray", "local", "--workers", "none"), "--workers cannot be 'none'"),
        (("--ray", "local", "--manifest", "m.csv"), "a manifest is JSON lines or Parquet"),
        (("--ray", ""), "--ray is empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_makes_no_sense(
    sana: Callable[..., Any], prompts: Path, words: tuple[str, ...], said: str
) -> None:
    run = sana("generate", "--prompts", prompts, "-m", "no-such-model", *words)
    assert (run.code, said in run.err) == (ExitCode.USAGE, True), run.err
    assert run.out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ray",), "none"), (("--ray", "-o", "x/"), "none"), (("--ray", "--steps", "4"), "none"), (("--ray", "--"), "none"),
        (("--ray", "host:0"), "host:0"), (("--ray=host:0", "--quiet"), "host:0"), (("--ray", "a fox"), "a fox"),
    ],
)  # fmt: skip
def test_without_a_value_it_is_auto(
    sana: Callable[..., Any], prompts: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:  # fmt: skip
    """`auto` reads RAY_ADDRESS, whose value the error names."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "none")
    run = sana("generate", "--prompts", prompts, *words)
    assert (run.code, f"--ray cannot be '{said}'" in run.err) == (ExitCode.USAGE, True), run.err


def test_one_prompt_is_no_batch(sana: Callable[..., Any]) -> None:
    run = sana("generate", "a fox", "--ray", "local")
    assert (run.code, "there is no --prompts" in run.err) == (ExitCode.USAGE, True)


def test_without_ray_one_line_says_how_to_get_it(
    sana: Callable[..., Any], prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not there
    run = sana("generate", "--prompts", prompts, "--ray", "local", "-o", f"{tmp_path}/out/")
    assert run.code == ExitCode.ENVIRONMENT
    assert "--ray needs packages that are not installed here" in run.err
    assert re.search("hint: .*pip install ", run.err)
    assert not (tmp_path / "out").exists()


def test_an_address_that_does_not_answer(
    sana: Callable[..., Any], prompts: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    words = ("--ray", "127.0.0.1:9", "-o", f"{tmp_path}/out/")
    run = sana("generate", "--prompts", prompts, *words)
    assert run.code == ExitCode.ENVIRONMENT
    assert "no Ray cluster answers at 127.0.0.1:9" in run.err
    assert not (tmp_path / "out").exists()
