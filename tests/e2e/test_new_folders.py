"""`-o "out/{id}.png"` and `-o out/`: folders that are not there come with the first picture, and never without one."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode
from tests.faults import raising
from tests.pictures import names

FAST = ("--size", "64x64", "--steps", 1, "--device", "cpu")
ONE = ("generate", "a fox", "--seed", 7, *FAST)
LINES = ("generate", "--prompts", "p.jsonl", *FAST)
SWEEP = ("generate", "a fox", "--seed", "7,8", *FAST)
SCORE = """import sys
for line in sys.stdin:
    print(1, flush=True)
"""
# What is typed, `--output`, and the files that are there afterwards.
PLACES: dict[str, tuple[tuple[object, ...], str, list[str]]] = {
    "a folder": (ONE, "new/inner/", ["new/inner/a-fox-7.png"]),
    "a pattern": (ONE, "new/inner/{seed}.webp", ["new/inner/7.webp"]),
    "fields in folders": ((*ONE, "-n", 2), "new/{seed}/x.png", ["new/7/x.png", "new/8/x.png"]),
    "a grid": (
        (*ONE, "-n", 2, "--grid"), "new/{slug}-{seed}.png",
        ["new/a-fox-7.png", "new/a-fox-8.png", "new/a-fox-grid.png"],
    ),
    "a file of prompts": (LINES, "new/{id}.png", ["new/one.png", "new/two.png"]),
    "folders of lines": (LINES, "new/{id}/{seed}.png", ["new/one/1.png", "new/two/2.png"]),
    "a sheet of lines": (
        (*LINES, "--grid"), "new/{id}.png",
        ["new/one.png", "new/p-grid.png", "new/two.png"],
    ),
    "a sweep": (
        (*SWEEP, "--grid"), "new/{id}.png",
        ["new/a-fox-grid.png", "new/seed7.png", "new/seed8.png"],
    ),
    "the best": (
        (*ONE, "--best-of", 2, "--score", f"'{sys.executable}' score.py"), "new/{slug}.png",
        ["new/a-fox.png"],
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with what the commands read."""
    lines = [
        {"prompt": "a cat", "id": "one", "seed": 1},
        {"prompt": "an owl", "id": "two", "seed": 2},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "score.py").write_text(SCORE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(folder: Path) -> list[str]:
    """Everything that is there now, but for what was there before; folders end in a slash."""
    found = (path for path in sorted(folder.rglob("*")) if path.name not in ("p.jsonl", "score.py"))
    return [f"{path.relative_to(folder)}{'/' * path.is_dir()}" for path in found]


@pytest.mark.parametrize("place", PLACES)
def test_folders_come_with_the_first_picture(
    sana: Callable[..., Any], at_stage: Callable[..., Any], tiny_model: Path, folder: Path, place: str
) -> None:  # fmt: skip
    words, output, files = PLACES[place]
    command = (*words, "-m", tiny_model, "-o", output)
    if "--best-of" not in words:
        assert sana(*command, "--dry-run").code == 0
        assert made(folder) == []
    with at_stage("denoise", raising(KeyboardInterrupt())):
        assert sana(*command).code == ExitCode.INTERRUPTED
    assert made(folder) == []
    result = sana(*command)
    assert result.code == 0, result.err
    assert [name for name in made(folder) if not name.endswith("/")] == files


@pytest.mark.parametrize("words", [ONE, (*ONE, "-n", 2, "--grid"), SWEEP, (*SWEEP, "--grid")])
def test_a_plain_name_makes_no_folder(
    sana: Callable[..., Any], tiny_model: Path, folder: Path, words: tuple[object, ...]
) -> None:
    """It may be misspelt."""
    result = sana(*words, "-m", tiny_model, "-o", "new/x.png")
    assert (result.code, made(folder)) == (ExitCode.USAGE, [])
    assert result.err.startswith("error: no such folder: new\nhint: create it: mkdir new;")


@pytest.mark.parametrize("output", ["new/{slug}.png", "new/er/"])
def test_nothing_stays_of_a_refused_picture(
    sana: Callable[..., Any], tiny_model: Path, folder: Path, output: str
) -> None:
    (folder / "new").write_text("a file")
    result = sana(*ONE, "-m", tiny_model, "-o", output)
    assert result.code in (ExitCode.USAGE, ExitCode.ENVIRONMENT)
    assert "new is no" in result.err
    assert made(folder) == ["new"]


def test_latents_keep_their_folder_and_become_a_picture_in_another(
    sana: Callable[..., Any], at_stage: Callable[..., Any], tiny_model: Path, folder: Path
) -> None:
    with at_stage("decode", raising(KeyboardInterrupt())):
        assert sana(*ONE, "-m", tiny_model, "-o", "new/{seed}.png").code == ExitCode.INTERRUPTED
    kept = "new/7.png.latents.safetensors"
    assert made(folder) == ["new/", kept]
    with at_stage("decode", raising(KeyboardInterrupt())):
        assert sana("decode", kept, "-o", "other/{slug}.png").code == ExitCode.INTERRUPTED
    assert made(folder) == ["new/", kept]
    result = sana("decode", kept, "-o", "other/{slug}-{seed}.png")
    assert result.code == 0, result.err
    assert names(folder / "other") == ["a-fox-7.png"]
    result = sana("decode", "nothing.safetensors", "-o", "third/{seed}.png")
    assert result.code == ExitCode.USAGE
    assert not (folder / "third").exists()


def test_in_a_session(
    sana: Callable[..., Any], tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = "a fox\n/output other/{slug}.png\nan owl\n/output p.jsonl/{slug}.png\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
    result = sana("repl", "-m", tiny_model, *FAST, "--seed", 7, "-o", "new/{slug}-{seed}.png")
    assert "error: p.jsonl is not a folder" in result.err
    assert made(folder) == ["new/", "new/a-fox-7.png", "other/", "other/an-owl.png"]
