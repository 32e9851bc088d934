"""Values that no option of ours can take: each is told which one can."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli.errors import ExitCode


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("--best-of", 0, "--score", "x"), "--best-of: 0 is out of range", "use 2 to 1000"),
        (("--best-of", "2.5", "--score", "x"), "--best-of: '2.5' is not a whole number", "use a whole number from 2 to 1000"),
        (("--steps", "x"), "--steps: 'x' is not a whole number", "use a whole number from 1 to 1000"),
        (("--guidance", "x"), "--guidance: 'x' is not a number", "use a number from 0 to 100"),
        (("--seed", "1-99999"), "--seed: 1-99999 has 99,999 values", "use at most 1000, or --count N"),
        (("--image", "http://x/y.png"), "no such picture: http:/x/y.png", "pictures are read from files: download it first"),
        (("--image", "-"), "no such picture: -", "pictures are not read from standard input: name a file"),
        (("--control", "lines.png:x", "-m", "builtin-control"), "no such picture: lines.png:x",
            "write lines.png; --control takes a scale, too: lines.png:0.8"),
        (("--image", "lines.png:0.5"), "no such picture: lines.png:0.5",
            "write lines.png; --control takes a scale, too: lines.png:0.8"),
        (("-o", "x."), "cannot write x.: pictures are saved as .png, .jpg or .webp", "use x.png"),
        (("-o", ".jpg"), "cannot write .jpg: pictures are saved as .png, .jpg or .webp", "use picture.jpg"),
        (("-o", "x.gif"), "cannot write x.gif: pictures are saved as .png, .jpg or .webp", "use x.png"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_of_generate(
    sana: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: tuple[object, ...], message: str, hint: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("lines.png")
    done = sana("generate", "a cat", *words)
    assert (done.code, done.out) == (ExitCode.USAGE, "")
    said = [line for line in done.err.splitlines() if not line.startswith("note: ")]
    assert said == [f"error: {message}", f"hint: {hint}"]
    assert [path.name for path in tmp_path.iterdir()] == ["lines.png"]


@pytest.mark.parametrize("template", ["{2$$}", "{|}", " {0$$a|b} "])
def test_choices_that_leave_nothing(sana: Callable[..., Any], template: str) -> None:
    done = sana("generate", template, "--wildcards", "--seed", 1, "--dry-run")
    assert done.code == ExitCode.USAGE
    assert f"the choices of {template!r} leave nothing to draw" in done.err


@pytest.mark.parametrize(
    "words", [("info",), ("pull",), ("remove",), ("quantize",), ("compare", "builtin")]
)
def test_a_name_without_letters_is_not_the_current_folder(
    sana: Callable[..., Any], words: tuple[str, ...]
) -> None:  # fmt: skip
    for name in ("", " "):
        done = sana(*words, name)
        assert done.code == ExitCode.USAGE
        assert "error: the model's name is empty\nhint: `sana models` lists them" in done.err


@pytest.mark.parametrize("more", [("cat",), ("--seed", 1), ("--since", "2026"), ("--show",)])
def test_a_rebuilt_history_searches_nothing(
    sana: Callable[..., Any], more: tuple[object, ...]
) -> None:
    done = sana("history", "--rebuild", *more)
    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert "error: give --rebuild or a search, not both" in done.err


def test_one_picture_is_no_pictures(sana: Callable[..., Any]) -> None:
    done = sana("generate", "a cat", "--guidance", "3,3", "--dry-run")
    assert "1 picture: 1 of --guidance" in done.out
