"""What is only so in a terminal: completion of two shells, colours, progress bars; and logs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode

COLOUR = re.compile(r"\x1b\[[0-9;]*[34][0-9]m")
DRAW = ("generate", "a cat", "--size", "32x32", "--steps", "2", "--seed", "1", "--device", "cpu")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which `sana` is a command, and with little else."""
    command = tmp_path / "bin/sana"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m sana_cli "$@"\n')
    command.chmod(0o755)
    names = ("HF_HOME", "PYTHONPATH", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {
        **kept, "PATH": f"{command.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "xterm",
        "SANA_MODELS": str(tmp_path / "models"), "SANA_CONFIG": str(tmp_path / "config.toml"),
        "LC_ALL": "C.UTF-8",
    }  # fmt: skip


@pytest.fixture(params=["bash", "zsh"])
def shell(request: Any, terminal: Any, environment: dict[str, str], tmp_path: Path) -> Any:
    """A shell that has read what `sana --show-completion` prints."""
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param} here")
    options = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}[request.param]
    opened = terminal([request.param, *options], environment=environment, folder=tmp_path)
    if request.param == "zsh":
        opened.type("PROMPT='%# '; autoload -Uz compinit; compinit -u; unsetopt LIST_AMBIGUOUS\n")
    opened.type("sana --show-completion > completion; source ./completion; echo rea''dy\n")
    opened.shows("ready")
    yield opened
    opened.type("\x15exit\n")
    opened.end()


def completed(shell: Any, typed: str, expected: str) -> None:
    """Press Tab behind `typed`, and wait until the line or the list holds what is expected."""
    shell.type(f"{typed}\t")
    shell.shows(expected)
    shell.type("\x15")


def test_completion_of_commands_options_and_values(shell: Any, tmp_path: Path) -> None:
    kept = tmp_path / "models/tiny-w8a8"
    kept.mkdir(parents=True)
    (kept / "manifest.json").write_text("{}")
    completed(shell, "sana quan", "quantize")
    completed(shell, "sana generate x --model sprint-0", "sprint-0.6b")
    completed(shell, "sana generate x --model tiny", "tiny-w8a8")
    completed(shell, "sana generate x --prec", "precision")
    completed(shell, "sana generate x --device cu", "cuda")
    completed(shell, "sana config set guid", "guidance")
    completed(shell, "sana config set device cu", "cuda")
    completed(shell, "sana pull sana-0.6b --quantize in", "int4")
    completed(shell, "sana repl -m tiny", "tiny-w8a8")
    completed(shell, "sana remove tin", "tiny-w8a8")
    completed(shell, "sana default sprint-1", "sprint-1.6b")
    completed(shell, "sana info sana-1.5-4", "sana-1.5-4.8b")


def test_completion_of_files(shell: Any, tmp_path: Path) -> None:
    (tmp_path / "seventeen-pandas.png").touch()
    completed(shell, "sana generate --from seven", "seventeen-pandas.png")
    completed(shell, "sana info ./seven", "seventeen-pandas.png")
    completed(shell, "sana generate x --image seven", "seventeen-pandas.png")
    completed(shell, "sana generate x --mask seven", "seventeen-pandas.png")
    (tmp_path / "watercolour.safetensors").touch()
    completed(shell, "sana generate x --lora water", "watercolour.safetensors")
    (tmp_path / "hundred-prompts.txt").touch()
    completed(shell, "sana generate --prompts hund", "hundred-prompts.txt")
    (tmp_path / "my-own-model").mkdir()
    completed(shell, "sana generate x --model my-o", "my-own-model")
    completed(shell, "sana generate x --model ./my-o", "my-own-model")
    completed(shell, "sana quantize my-o", "my-own-model")


def test_completion_where_models_cannot_be_listed(shell: Any) -> None:
    """What is typed stays as it is, and no error is printed into it."""
    shell.type("export SANA_MODELS='~nobody-of-this-name/models'; echo se''t\n")
    shell.shows("set\r\n")
    shell.type("sana generate x --model sprint-0\t")
    shell.type(" --steps 3 \x01echo \n")  # to the line's beginning: it is printed instead of run
    text = shell.shows("--steps 3\r\n")
    assert "sprint-0 --steps 3" in text.splitlines()[-1]
    assert "rror" not in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_bars_and_colours_in_a_terminal_only(
    terminal: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    def shown(**extra: str) -> str:
        words = ["sana", *DRAW, "--force", "-o", "a.png"]
        code, text = terminal(words, environment={**environment, **extra}, folder=tmp_path).end()
        assert code == 0, text
        return text

    colourful = shown()
    assert "denoise" in colourful
    assert "2/2" in colourful
    assert COLOUR.search(colourful)
    plain = shown(NO_COLOR="1")
    assert "denoise" in plain
    assert not COLOUR.search(plain)
    piped = subprocess.run(
        ["sana", *DRAW, "--force", "-o", "a.png"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )  # fmt: skip
    assert "denoise" not in piped.stderr
    assert "\x1b" not in piped.stdout + piped.stderr


def test_ctrl_c_at_a_question(terminal: Any, environment: dict[str, str], tmp_path: Path) -> None:
    kept = tmp_path / "models/tiny-w8a8"
    kept.mkdir(parents=True)
    (kept / "manifest.json").write_text("{}")
    asked = terminal(["sana", "remove", "tiny-w8a8"], environment=environment)
    asked.shows("[y/N]")
    code, text = asked.interrupt()
    assert (code, "interrupted" in text) == (ExitCode.INTERRUPTED, True)
    assert kept.is_dir()


def test_logs(sana: Callable[..., Any], tmp_path: Path) -> None:
    """On stderr, before or behind the command; results stay alone on stdout."""
    words = (*DRAW, "--force", "-o", tmp_path / "a.png", "--json")
    silent = sana(*words)
    assert "sana.stages" not in silent.err
    for verbose in (sana("-v", *words), sana(*words, "-v"), sana(*words, "--verbose")):
        assert re.search(r"sana\.stages: denoise: \d", verbose.err)
        assert "sana.model: model builtin: /" in verbose.err
        assert verbose.document["images"][0]["seed"] == 1
    assert "sana.stages" not in sana(*words).err, "asked for by one call, not by the next"


def test_debug_shows_where_an_error_came_from(sana: Callable[..., Any]) -> None:
    for words in (("--debug", "generate", ""), ("generate", "", "--debug")):
        shown = sana(*words).err
        assert shown.startswith("Traceback")
        assert "error: the prompt is empty" in shown
    result = sana("generate", "--size", "x", "--", "--debug")
    assert "cannot read size 'x'" in result.err, "behind -- it is a prompt"
