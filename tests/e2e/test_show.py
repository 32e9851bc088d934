"""`--show`: pictures in terminals that can show them, and what becomes of it elsewhere."""

import io
import os
import re
import shlex
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sana_cli.cli import main
from sana_cli.config.user_settings import UserSettings
from sana_cli.errors import ExitCode
from sana_cli.images.png import save_png
from sana_cli.terminal.display import Seeing
from sana_cli.terminal.image import Screen

SETTINGS = {
    "prompt": "a cat", "negative_prompt": "", "seed": 7, "steps": 2, "guidance": 4.5, "size": "64x96",
    "drawn_size": "64x96", "scheduler": "flow-dpm", "model": "builtin", "version": "1", "enhance": False,
}  # fmt: skip
QUESTIONS = "\x1b[c"  # the last of them
CELL = "\x1b[6;20;10t"  # cells of 10x20 pixels
ANSWERS = {
    "sixel": f"{CELL}\x1b[?62;4;22c",
    "kitty": f"\x1b_Gi=31;OK\x1b\\{CELL}\x1b[?62;22c",
    "both": f"\x1b_Gi=31;OK\x1b\\{CELL}\x1b[?62;4c",  # WezTerm: it lacks what we would use of kitty's
    "neither": "\x1b[?6c",
}
SHOWN = {"sixel": "\x1bP0;0;0q", "kitty": "\U0010eeee", "neither": "▀"}
DRAW = ("generate", "a cat", "--size", "32x32", "--steps", "1", "--seed", "1", "--device", "cpu")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """64x96 pixels: 6 cells wide and 5 high."""
    path = tmp_path / "a.png"
    save_png(Image.linear_gradient("L").convert("RGB").resize((64, 96)), path, settings=SETTINGS)
    return path


@pytest.fixture
def in_terminal(
    terminal: Any, environment: dict[str, str], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """Run `sana ...` in a terminal that answers questions about itself, if it is asked; returns code and text."""

    def run(*words: object, answer: str | None, **variables: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "sana_cli", *words]
        opened = terminal(command, environment={**environment, **variables}, folder=tmp_path)
        before = ""
        if answer is not None:
            before = opened.shows(QUESTIONS)
            opened.type(answer)
        code, after = opened.end()
        return code, before + after

    return run


@pytest.mark.parametrize("kind", ["sixel", "kitty", "neither"])
def test_info_shows_a_picture(in_terminal: Any, picture: Path, kind: str) -> None:
    code, text = in_terminal("info", picture, "--show", answer=ANSWERS[kind])
    assert code == 0
    assert "prompt: a cat" in text
    assert SHOWN[kind] in text.partition("prompt: a cat")[2]
    for other in set(SHOWN) - {kind}:
        assert SHOWN[other] not in text.partition("prompt: a cat")[2]
    if kind == "kitty":
        placeholders = [line for line in text.splitlines() if "\U0010eeee" in line]
        assert [line.count("\U0010eeee") for line in placeholders] == [6] * 5, "its own size"


def blocks_of_colour(path: Path, width: int, height: int) -> Image.Image:
    """A picture whose colours are whole percents, which is how sixels tell them."""
    colours = np.array([(0, 51, 102), (255, 204, 0), (153, 0, 51), (51, 255, 153)], np.uint8)
    y, x = np.mgrid[:height, :width]
    image = Image.fromarray(colours[(x // 7 + 3 * (y // 9)) % 4])
    save_png(image, path, settings=SETTINGS)
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean, in levels of 255; pictures of other sizes differ wholly."""
    if one.size != other.size:
        return 255.0
    return float(np.abs(np.asarray(one.convert("RGB"), int) - np.asarray(other, int)).mean())


def test_kitty_draws_the_picture(in_terminal: Any, terminal_pictures: Any, tmp_path: Path) -> None:
    """Bit for bit where it fills its cells, in several pieces, and stretched over those that come nearest."""
    image = Image.effect_noise((60, 100), 90).convert("RGB")
    save_png(image, tmp_path / "noise.png", settings=SETTINGS)
    _, text = in_terminal("info", "noise.png", "--show", answer=ANSWERS["kitty"])
    (placed,) = terminal_pictures.kitty_pictures(text)
    assert text.count("m=1") > 2
    assert placed.cells == (6, 5)
    assert difference(placed.image, image) == 0
    odd = blocks_of_colour(tmp_path / "odd.png", 64, 96)
    _, text = in_terminal("info", "odd.png", "--show", answer=ANSWERS["kitty"])
    (placed,) = terminal_pictures.kitty_pictures(text)
    assert placed.cells == (6, 5)
    assert difference(placed.image, odd.resize((60, 100))) < 1


def test_sixels_draw_the_picture(in_terminal: Any, terminal_pictures: Any, tmp_path: Path) -> None:
    image = blocks_of_colour(tmp_path / "blocks.png", 60, 100)
    _, text = in_terminal("info", "blocks.png", "--show", answer=ANSWERS["sixel"])
    (drawn,) = terminal_pictures.sixel_pictures(text)
    assert difference(drawn, image) == 0


@pytest.mark.parametrize("kind", ["sixel", "kitty"])
def test_a_large_picture_is_made_to_fit(
    in_terminal: Any, terminal_pictures: Any, tmp_path: Path, kind: str
) -> None:
    """Three quarters of 24 rows: 18 of them, of 40 pixels, and none of it is missing."""
    image = blocks_of_colour(tmp_path / "tall.png", 240, 1600).resize((120, 800))
    save_png(image, tmp_path / "tall.png", settings=SETTINGS, overwrite=True)
    answer = ANSWERS[kind].replace(CELL, "\x1b[6;40;20t")
    _, text = in_terminal("info", "tall.png", "--show", answer=answer)
    if kind == "sixel":
        (drawn,) = terminal_pictures.sixel_pictures(text)
    else:
        drawn = terminal_pictures.kitty_pictures(text)[0].image
    assert drawn.size == (100, 720)
    assert difference(drawn, image.resize((100, 720))) < 4


@pytest.mark.parametrize("kind", ["sixel", "kitty"])
def test_the_picture_that_was_drawn(
    in_terminal: Any, terminal_pictures: Any, tmp_path: Path, kind: str
) -> None:
    """Previews too, which come first and are replaced."""
    words = (*DRAW, "-o", "a.png", "--preview")
    code, text = in_terminal(*words, answer=ANSWERS[kind].replace(CELL, "\x1b[6;16;8t"))
    assert code == 0
    if kind == "sixel":
        preview, drawn = terminal_pictures.sixel_pictures(text)
    else:
        preview, drawn = (placed.image for placed in terminal_pictures.kitty_pictures(text))
    picture = Image.open(tmp_path / "a.png").convert("RGB")
    assert difference(drawn, picture) < (6 if kind == "sixel" else 1e-9)
    assert difference(preview, picture) < 60


def test_a_pipe_gets_no_pictures(
    terminal: Any, environment: dict[str, str], picture: Path, tmp_path: Path
) -> None:
    """Neither pictures nor questions, also where stderr is a terminal."""
    shell = terminal(["bash", "--norc", "-i"], environment=environment, folder=tmp_path)
    command = shlex.join([sys.executable, "-m", "sana_cli", "info", str(picture), "--show"])
    shell.type(f"{command} > out.txt; {command} | cat > piped.txt; echo it is do''ne\n")
    text = shell.shows("it is done", seconds=30)
    shell.type("exit\n")
    shell.end()
    assert text.count("--show has no effect") == 2
    assert QUESTIONS not in text
    for name in ("out.txt", "piped.txt"):
        told = (tmp_path / name).read_text()
        assert "prompt: a cat" in told
        assert "\x1b" not in told


def test_sixels_where_both_are_claimed(in_terminal: Any, picture: Path) -> None:
    _, text = in_terminal("info", picture, "--show", answer=ANSWERS["both"])
    assert SHOWN["sixel"] in text


def test_a_terminal_that_never_answers(in_terminal: Any, picture: Path) -> None:
    code, text = in_terminal("info", picture, "--show", answer=None)
    assert code == 0
    assert SHOWN["neither"] in text
    assert "Traceback" not in text


def test_no_questions_to_a_dumb_terminal(in_terminal: Any, picture: Path) -> None:
    code, text = in_terminal("info", picture, "--show", answer=None, TERM="dumb")
    assert code == 0
    assert "\x1b" not in text
    assert "--show has no effect" in text


def test_a_job_in_the_background(
    terminal: Any, environment: dict[str, str], picture: Path, tmp_path: Path
) -> None:
    """It must not read from the terminal: that would stop it."""
    shell = terminal(["bash", "--norc", "-i"], environment=environment, folder=tmp_path)
    command = shlex.join([sys.executable, "-m", "sana_cli", "info", str(picture), "--show"])
    shell.type(f"{command} & wait $!; echo it is do''ne\n")
    text = shell.shows("it is done", seconds=30)
    shell.type("exit\n")
    shell.end()
    assert SHOWN["neither"] in text
    assert QUESTIONS not in text


def with_terminal(*words: object) -> tuple[int, str, str]:
    """Run `sana ...` in this process, with a terminal on stdout that is not its own, and so is not asked."""
    ours, theirs = os.openpty()
    sent, err = bytearray(), io.StringIO()

    def collect() -> None:
        with suppress(OSError):  # the other side is closed
            while part := os.read(ours, 4096):
                sent.extend(part)

    reader = threading.Thread(target=collect)
    reader.start()
    with (
        os.fdopen(theirs, "w", encoding="utf-8") as out,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = main([str(word) for word in words])
    reader.join()
    os.close(ours)
    return code, sent.decode(), err.getvalue()


def test_off_where_it_would_be_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Unless somebody asks for them; of several pictures with a sheet, the sheet alone is shown."""
    monkeypatch.setenv("TERM", "xterm-256color")
    draw = (*DRAW, "--count", 2, "--grid", "-o", tmp_path / "a.png")
    code, out, _ = with_terminal(*draw)
    assert code == 0
    assert SHOWN["neither"] not in out
    _, out, _ = with_terminal(*draw, "--force", "--show")
    assert SHOWN["neither"] not in out.partition("a-grid.png")[0]
    assert SHOWN["neither"] in out.partition("a-grid.png")[2]


@pytest.mark.parametrize(
    ("graphics", "flags", "settings", "shown"),
    [
        ("sixel", {}, {}, True),
        ("blocks", {}, {}, False),
        ("blocks", {"show": True}, {}, True),
        ("blocks", {}, {"show": True}, True),
        ("sixel", {}, {"show": False}, False),
        ("sixel", {"show": True}, {"show": False}, True),
        ("sixel", {"show": False}, {"show": True}, False),
        ("sixel", {"json": True}, {"show": True}, False),
        ("sixel", {"quiet": True}, {"show": True}, False),
        ("sixel", {}, {"quiet": True}, False),
        ("sixel", {"quiet": False}, {"quiet": True}, True),
        ("sixel", {"show": True}, {"quiet": True}, True),
    ],
)
def test_what_wins(
    graphics: Any, flags: dict[str, bool], settings: dict[str, bool], shown: bool
) -> None:  # fmt: skip
    # They follow the same rules, but that previews are asked for.
    for option in ("show", "preview"):
        given: dict[str, Any] = {"show": False, "preview": False, "json": False, "quiet": None}
        given |= {option: None} | {option if k == "show" else k: v for k, v in flags.items()}
        chosen = UserSettings(**{option if k == "show" else k: v for k, v in settings.items()})
        seeing = Seeing.plan(
            chosen, **given, file=None, every=None, output=None, overwrite=False,
            find=lambda: Screen(graphics=graphics),
        )  # fmt: skip
        asked_for = "show" in flags or "show" in settings
        if option == "show":
            assert seeing.shows == shown
        elif asked_for:
            assert seeing.previews == shown
        else:
            assert not seeing.previews


def test_on_in_a_terminal_that_can(in_terminal: Any) -> None:
    """After each picture, below its summary, both of which progress bars leave alone."""
    code, text = in_terminal(*DRAW, "--count", "2", "-o", "a.png", answer=ANSWERS["sixel"])
    assert code == 0
    _, one, two = re.split(r"a-[12]\.png  seed", text)
    for part in (one, two):
        summary, sixels, rest = part.partition(SHOWN["sixel"])
        assert sixels
        assert "peak memory" in summary
        assert "\x1b[1A\x1b[2K" not in summary, "bars, and what erases them"
        assert "\x1b[1A\x1b[2K" not in rest.partition("\x1b8")[0]


def test_elsewhere_it_is_no_use(sana: Any, tmp_path: Path) -> None:
    draw = (*DRAW, "-o", tmp_path / "a.png")
    for mute in ("--json", "--quiet"):
        refused = sana(*draw, "--show", mute)
        assert (refused.code, f"--show or {mute}, not both" in refused.err) == (
            ExitCode.USAGE,
            True,
        )
    assert "--show has no effect" in sana(*draw, "--show").err


def test_info_shows_pictures_only(sana: Any, picture: Path) -> None:
    assert "no terminal" in sana("info", picture, "--show").err
    assert "it is for pictures" in sana("info", "builtin", "--show").err
    refused = sana("info", picture, "--show", "--json")
    assert (refused.code, "not both" in refused.err) == (ExitCode.USAGE, True)
