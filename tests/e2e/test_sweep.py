"""`--steps 2,3 --seed 1-2 --grid`: all combinations, each as a single run draws it, on one labelled sheet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sana_cli.errors import ExitCode
from sana_cli.images.labelled_sheet import LabelledSheet
from sana_cli.images.picture_file import SHEET_KEY, read_settings

FAST = ("--size", "64x64", "--device", "cpu")


def test_equal_to_single_runs_and_on_one_sheet(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    words = ("generate", "a cat", "-m", tiny_model, *FAST)
    sweep = (
        *words,
        "--steps",
        "1,2",
        "--guidance",
        "3,4.5",
        "--seed",
        "1-2",
        "--grid",
        "-o",
        tmp_path / "x.png",
    )
    result = sana(*sweep)
    assert result.code == 0, result.err
    names = [(s, g, n) for s in (1, 2) for g in ("3", "4.5") for n in (1, 2)]
    for steps, guidance, seed in names:
        path = tmp_path / f"x-steps{steps}-guidance{guidance}-seed{seed}.png"
        single = tmp_path / "single.png"
        assert (
            sana(
                *words,
                "--steps",
                steps,
                "--guidance",
                guidance,
                "--seed",
                seed,
                "--force",
                "-o",
                single,
            ).code
            == 0
        )
        assert single.read_bytes() == path.read_bytes()
    sheet = LabelledSheet.of(
        ["steps 1", "steps 2"], ["seed 1", "seed 2"], ["guidance 3", "guidance 4.5"], (64, 64)
    )
    pixels = np.asarray(Image.open(tmp_path / "x-grid.png"))
    assert pixels.shape[:2] == sheet.size[::-1]
    for steps, guidance, seed in names:
        x, y = sheet.place(int(guidance == "4.5"), seed - 1, steps - 1)
        picture = np.asarray(
            Image.open(tmp_path / f"x-steps{steps}-guidance{guidance}-seed{seed}.png")
        )
        assert (pixels[y : y + 64, x : x + 64] == picture).all()
    settings = read_settings(tmp_path / "x-grid.png")
    assert settings["axes"] == {
        "steps": ["steps 1", "steps 2"],
        "seed": ["seed 1", "seed 2"],
        "guidance_scale": ["guidance 3", "guidance 4.5"],
    }
    assert len(settings[SHEET_KEY]) == 8
    again = sana(*sweep, "--json")
    assert (len(again.told("done")), len(again.told("drawn"))) == (8, 0), "a rerun draws nothing"


def test_models_and_schemes(
    sana: Callable[..., Any], tiny_model: Path, quantized: Callable[..., Path], tmp_path: Path
) -> None:
    """What quantizing costs, in one picture; each model is loaded once."""
    small = quantized("w8a8")
    models = f"{tiny_model},{small}"
    result = sana(
        "generate",
        "a cat",
        "-m",
        models,
        *FAST,
        "--steps",
        1,
        "--seed",
        "1-3",
        "--grid",
        "-o",
        f"{tmp_path}/o/",
        "-v",
    )
    assert result.code == 0, result.err
    pictures = sorted((tmp_path / "o").glob("a-cat-model*.png"))
    assert len(pictures) == 6
    (sheet,) = (tmp_path / "o").glob("*-grid.png")
    assert read_settings(sheet)["axes"]["model"] == [
        f"model {tiny_model.name}",
        f"model {small.name}",
    ]
    assert result.err.count("load transformer") <= 2


def test_a_dry_run_counts(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    result = sana(
        "generate",
        "a cat",
        "-m",
        tiny_model,
        *FAST,
        "--steps",
        "1,2,3",
        "--seed",
        "1-4",
        "-o",
        f"{tmp_path}/o/",
        "--dry-run",
    )
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "12 pictures: 3 of --steps x 4 of --seed"
    assert lines[1] == "12 pictures, 0 done, 12 to draw"
    assert not (tmp_path / "o").exists()


def test_from_a_picture(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    first = tmp_path / "a.png"
    assert (
        sana(
            "generate", "a cat", "-m", tiny_model, *FAST, "--steps", 1, "--seed", 9, "-o", first
        ).code
        == 0
    )
    result = sana(
        "generate", "--from", first, "-m", tiny_model, "--steps", "1,2", "-o", tmp_path / "b.png"
    )
    assert result.code == 0, result.err
    assert (tmp_path / "b-steps1.png").read_bytes() == first.read_bytes()
    assert read_settings(tmp_path / "b-steps2.png")["seed"] == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "0,2"), "cannot draw in 0 steps"),
        (("--steps", "1,2", "--seed", "1,x"), "--seed: cannot use 'x'"),
        (("--model", "builtin,nothing-like-this"), "nothing-like-this"),
        *(
            ((option, text), f"{option} takes one value, not {text!r}: it cannot be an axis")
            for option, text in {
                "--size": "64,128",
                "--width": "64,128",
                "--aspect": "1:1,2:1",
                "--device": "cpu,cuda",
                "--quality": "90,95",
            }.items()
        ),
        (
            ("--steps", "1,2", "--prompts", "p.txt"),
            "give --prompts or options with several values, not both",
        ),
        (("--steps", "1,2", "-o", "{seed}.png"), "has 1 name for 2 pictures"),
    ],
    ids=str,
)
def test_mistakes_cost_no_time(
    sana: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    prompt = () if "--prompts" in options else ("a cat",)
    result = sana("generate", *prompt, *options)
    assert (result.code, message in result.err, "hint:" in result.err) == (
        ExitCode.USAGE,
        True,
        True,
    ), result.err
    assert list(tmp_path.iterdir()) == []
