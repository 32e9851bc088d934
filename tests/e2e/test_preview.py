"""`--preview`: a picture while it is drawn, in the terminal and in a file."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli.errors import ExitCode
from sana_cli.images.png import XMP_KEY, is_preview, preview_state
from sana_cli.images.xmp import DIGITAL_SOURCE_TYPE
from tests.faults import full_disk

DRAW = ("generate", "a cat", "--steps", "4", "--seed", "1", "--device", "cpu")


class Watcher:
    """Looks at the preview's file again and again, as a viewer of pictures does: its states, and the sizes of the pictures."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.seen: dict[str, tuple[int, int]] = {}

    def look(self) -> None:
        if self.file.exists() and (state := preview_state(self.file)):
            with Image.open(self.file) as image:
                self.seen[state] = image.size


@pytest.fixture
def watched(tmp_path: Path, before_computing: Callable[..., Any]) -> Iterator[Watcher]:
    watcher = Watcher(tmp_path / "so-far.png")
    with before_computing("denoise", watcher.look), before_computing("decode", watcher.look):
        yield watcher


def test_a_file_that_follows_the_picture(sana: Any, watched: Watcher, tmp_path: Path) -> None:
    """It ends as a soft version of the picture, stays, and is replaced by the next run's."""
    file, picture = tmp_path / "so-far.png", tmp_path / "a.png"
    words = (*DRAW, "--preview-file", file, "--preview-every", 2, "-o", picture)
    result = sana(*words)
    assert result.code == 0, result.err
    assert list(watched.seen) == ["step 2 of 4", "step 4 of 4"]
    assert is_preview(file)
    assert DIGITAL_SOURCE_TYPE in Image.open(file).info[XMP_KEY]
    shown, drawn = (
        Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BOX).tobytes() for path in (file, picture)
    )  # fmt: skip
    error = sum((a - b) ** 2 for a, b in zip(shown, drawn, strict=True)) / len(drawn)
    assert error**0.5 < 25, "grey levels of 255"
    again = sana(*words[:-1], tmp_path / "b.png")
    assert again.code == 0, again.err
    assert (tmp_path / "b.png").read_bytes() == picture.read_bytes(), "watching changes nothing"


def test_learnt_from_the_first_picture(
    sana: Any, watched: Watcher, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that brings no map has none for its first picture, says so, and has one for the second."""
    monkeypatch.setenv("SANA_CACHE", str(tmp_path / "cache"))
    words = (
        *DRAW,
        "-m",
        tiny_model,
        "--size",
        "512x512",
        "--preview-file",
        tmp_path / "so-far.png",
    )
    first = sana(*words, "-o", tmp_path / "a.png")
    assert (first.code, "no preview yet" in first.err, watched.seen) == (0, True, {})
    second = sana(*words, "-o", tmp_path / "b.png")
    assert (second.code, "no preview yet" in second.err) == (0, False)
    assert watched.seen == {f"step {step} of 4": (512, 512) for step in (1, 2, 3, 4)}


def test_what_cannot_be(sana: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"mine")
    for words, message in (
        (("--preview-file", mine), "mine.png exists"),
        (("--preview-file", tmp_path / "so-far.jpg"), "pictures are saved as .png"),
        (("--preview-file", tmp_path / "none/so-far.png"), "choose another --preview-file\n"),
        (("--preview-file", tmp_path), f"name a file in it: --preview-file {tmp_path}/so-far.png"),
        (("--preview-file", ""), "--preview-file is empty"),
        (("--preview-file", tmp_path / "a.png", "-o", tmp_path / "a.png"), "the picture and its preview"),
        (("--preview-every", "0"), "every 0 steps"),
        (("--preview", "--json"), "--preview or --json, not both"),
        (("--preview", "--quiet"), "--preview or --quiet, not both"),
    ):  # fmt: skip
        result = sana(*DRAW, "-o", tmp_path / "x.png", *words)
        assert (result.code, message in result.err) == (ExitCode.USAGE, True), result.err
    assert os.listdir(tmp_path) == ["mine.png"]
    assert mine.read_bytes() == b"mine"


def test_in_vain(sana: Any, tmp_path: Path) -> None:
    result = sana(*DRAW, "--preview", "--preview-every", 2, "-o", tmp_path / "a.png")
    assert result.code == 0
    assert "--preview has no effect: this is no terminal" in result.err
    assert "--preview-every has no effect" in result.err


def test_a_full_disk_costs_no_picture(
    sana: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    # The first file shows that the folder can be written.
    monkeypatch.setattr(os, "open", full_disk(full, range(2, 99)))
    result = sana(*DRAW, "--preview-file", full / "b.png", "-o", tmp_path / "a.png")
    assert (result.code, result.err.count("No space left on device")) == (0, 1), result.err


def test_in_the_terminal(
    terminal: Callable[..., Any], environment: dict[str, str], tmp_path: Path
) -> None:
    """Each preview in place of the one before, none left below the finished picture's summary."""
    import sys

    opened = terminal(
        [sys.executable, "-m", "sana_cli", *DRAW, "--preview", "-o", "a.png"],
        environment=environment, folder=tmp_path,
    )  # fmt: skip
    opened.shows("\x1b[c")
    opened.type("\x1b[6;20;10t\x1b[?62;4c")
    code, text = opened.end()
    assert code == 0, text[-500:]
    before, summary, after = text.partition("a.png  seed 1")
    assert summary
    rows = 12  # half of 24
    assert before.count("\x1bP0;0;0q") == 4
    assert before.count(f"\x1b[{rows}A\r\x1b[J") == 4
    assert after.count("\x1bP0;0;0q") == 1


@pytest.mark.parametrize("output", ["", "{slug}-{index}.png"], ids=["folder", "pattern"])
def test_a_name_that_the_picture_will_get(sana: Any, tmp_path: Path, output: str) -> None:
    """Known only once names are made; before anything is drawn all the same."""
    folder = tmp_path / "out"
    folder.mkdir()
    preview = folder / (f"a-cat-{1}.png")
    result = sana(*DRAW, "-o", f"{folder}/{output}", "--preview-file", preview, "--force")
    assert result.code == ExitCode.USAGE
    assert "cannot be the picture and its preview" in result.err
    assert list(folder.iterdir()) == []
