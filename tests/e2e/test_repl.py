"""`sana repl`: in a real terminal, and with lines from a pipe."""

import io
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode
from sana_cli.image_io import read_settings


@pytest.fixture
def lines(
    sana: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Pipe lines into a session in an empty folder, with the built-in model on the CPU."""
    monkeypatch.chdir(tmp_path)

    def run(text: str, *options: object) -> Any:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return sana("repl", "--device", "cpu", "--precision", "fp32", *options)

    return run


def test_lines_from_a_pipe(
    lines: Callable[..., Any], sana: Callable[..., Any], tmp_path: Path
) -> None:
    """Settings hold until they change, an error ends nothing, and parts are loaded once."""
    result = lines(
        "# not this one\n\n/size 64x64\n/steps 2\n/seed 7\na cat\n/size 33x33\n"
        "/negative a dog\n/guidance 3\nan owl\n/steps default\n/seed default\n/steps\n"
    )
    assert result.code == ExitCode.USAGE, "that of the first failure"
    assert result.err.count("error: ") == 1
    assert "error: size 33x33 is not a multiple of 32; use 32x32" in result.err
    assert result.err.rstrip().endswith("seed a new one each time\nsteps 20")
    cat, owl = (read_settings(tmp_path / name) for name in ("a-cat-7.png", "an-owl-7.png"))
    assert (cat["size"], cat["steps"], cat["negative_prompt"]) == ("64x64", 2, "")
    assert (owl["size"], owl["guidance"], owl["negative_prompt"]) == ("64x64", 3, "a dog")
    first, second = (line for line in result.out.splitlines() if "seconds" in line)
    assert "load 0.00" not in first
    assert "load 0.00" in second, "text encoder, transformer and decoder are still there"
    alone = tmp_path / "alone.png"
    words = ("--size", "64x64", "--steps", 2, "--seed", 7, "--negative", "a dog", "--guidance", 3)
    assert sana("generate", "an owl", *words, "--precision", "fp32", "-o", alone).code == 0
    assert alone.read_bytes() == (tmp_path / "an-owl-7.png").read_bytes()


def test_another_model(lines: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    small = "/size 64x64\n/steps 1\n"
    result = lines(
        f"{small}/seed 1\na cat\n/model {tiny_model}\na cat\n/model nowhere\n/model\n", "-q"
    )
    assert result.code == ExitCode.USAGE
    assert "unknown model 'nowhere'" in result.err
    assert result.err.rstrip().endswith(f"model {tiny_model.name}"), "it stays as it was"
    assert result.out.split() == ["a-cat-1.png", "a-cat-1-2.png"]
    models = [read_settings(tmp_path / name)["model"] for name in result.out.split()]
    assert models == ["builtin", tiny_model.name]


def test_quit_and_help(lines: Callable[..., Any]) -> None:
    result = lines("/help\n/settings\n/quit\nan owl\n")
    assert (result.code, result.out) == (0, "")
    assert "/guidance X" in result.err
    assert "scheduler  flow-dpm" in result.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sise 64x64", "there is no command /sise, did you mean /size?"),
        ("/size big", "cannot read size 'big'"),
        ("/size 1:99", "cannot use aspect ratio '1:99'"),
        ("/steps many", "/steps cannot be 'many'; it should be a whole number from 1 to 1000"),
        ("/seed -1", "/seed cannot be '-1'; it should be a whole number, or default"),
        ("/seed 99999999999999999999", "seed 99999999999999999999 is out of range"),
        ("/guidance -2", "a number from 0 to 100"),
        ("/scheduler ddim", "should be one of flow-dpm, flow-euler, scm"),
        ("/scheduler scm", "scheduler scm does not fit builtin"),
        ("/output a.png", "pictures of a session cannot all be called a.png"),
        ("/output {index}.png", "pictures of a session cannot all be called {index}.png"),
        ("x" * 30_000, "a prompt of 30,000 characters is too long"),
    ],
    ids=lambda value: value[:20],
)
def test_lines_that_are_wrong(lines: Callable[..., Any], line: str, message: str) -> None:
    """Told before anything is loaded, and nothing changes."""
    result = lines(f"{line}\n/settings\n")
    assert result.code == ExitCode.USAGE
    assert message in result.err.splitlines()[1], result.err
    assert "size       256x256" in result.err


def test_options_that_are_wrong(lines: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for words, message in (
        (("-m", "builtim"), "did you mean builtin?"),
        (("-o", "a.png"), "cannot all be called a.png"),
        (("--max-memory", "much"), "cannot use 'much' as an amount of memory"),
    ):
        result = lines("a cat\n", *words)
        assert (result.code, result.out) == (ExitCode.USAGE, "")
        assert message in result.err
    monkeypatch.setenv("SANA_STEPS", "0")
    assert "SANA_STEPS is '0'" in lines("a cat\n").err


@pytest.fixture
def session(terminal: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open a session in a terminal."""
    names = ("HF_HOME", "PYTHONPATH", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PATH")
    environment = {name: os.environ[name] for name in names if name in os.environ} | {
        "HOME": str(tmp_path), "TERM": "xterm", "LC_ALL": "C.UTF-8", "NO_COLOR": "1",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "sana_cli", "repl", "--device", "cpu", "--precision", "fp32"]
    opened = []

    def start(*options: str) -> Any:
        started = terminal([*command, *options], environment=environment, folder=tmp_path)
        opened.append(started.pid)
        started.shows("to leave")
        started.shows("sana>")
        return started

    yield start
    for pid in opened:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_in_a_terminal(session: Callable[..., Any], tmp_path: Path) -> None:
    """Completion, a picture, Ctrl-C while one is drawn, history of an earlier sitting, Ctrl-D."""
    first = session()
    first.type("/st\t")
    first.shows("eps")
    first.type(" 2\r")
    first.shows("steps 2\r\n")
    first.type("/size 64x64\r")
    first.shows("size 64x64\r\n")
    first.type("/seed 3\ran owl\r")
    first.shows("an-owl-3.png")
    first.shows("sana>")
    first.type("/steps 1000\r")
    first.shows("steps 1000\r\n")
    first.type("a cat\r")
    first.shows("denoise")
    first.type("\x03")
    first.shows("interrupted")
    first.shows("sana>")
    first.type("half a line\x03")
    first.shows("sana>")
    first.type("/steps default\r")
    first.shows("steps 20\r\n")
    first.type("a dog\r")
    first.shows("a-dog-3.png")
    first.shows("sana>")
    first.type("\x04")
    assert first.end()[0] == 0
    assert sorted(p.name for p in tmp_path.glob("*.png*")) == ["a-dog-3.png", "an-owl-3.png"]

    kept = next(tmp_path.rglob("history"))
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    second = session()
    second.type("\x1b[A")  # the key Up
    second.shows("a dog")
    second.type("\x15/quit\r")
    assert second.end()[0] == 0


def test_without_history(session: Callable[..., Any], tmp_path: Path) -> None:
    opened = session("--no-history")
    opened.type("/seed 1\r")
    opened.shows("seed 1\r\n")
    opened.shows("sana>")
    opened.type("\x04")
    assert opened.end()[0] == 0
    assert not list(tmp_path.rglob("history"))
