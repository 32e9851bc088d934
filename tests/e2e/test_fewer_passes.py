"""`--guidance-interval` and `--cache`: less work for another picture, on request."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings

DRAWN = ("generate", "a red cat left of a blue car", "--seed", 3, "--steps", 10, "--device", "cpu")
BOTH = ("--guidance-interval", "0.2-0.8", "--cache", 0.1)


def picture(path: Path) -> Any:
    with Image.open(path) as png:
        return np.asarray(png.convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def drawn(
    sana: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """With both, by the built-in model: a folder with the picture, and what was told about it."""
    folder = tmp_path_factory.mktemp("fewer")
    result = sana(*DRAWN, *BOTH, "--json", "-o", folder / "fewer.png")
    assert result.code == 0, result.err
    return folder, result.document["images"][0]


def test_off_is_off(sana: Callable[..., Any], drawn: Any) -> None:
    folder, _ = drawn
    assert sana(*DRAWN, "-o", folder / "plain.png").code == 0
    off = ("--guidance-interval", "0-1", "--cache", 0)
    assert sana(*DRAWN, *off, "-o", folder / "off.png").code == 0
    assert (folder / "off.png").read_bytes() == (folder / "plain.png").read_bytes()
    result = sana("generate", "--from", folder / "fewer.png", *off, "-o", folder / "again.png")
    assert result.code == 0, result.err
    assert (folder / "again.png").read_bytes() == (folder / "plain.png").read_bytes()


def test_fewer_passes_and_almost_the_same_picture(sana: Callable[..., Any], drawn: Any) -> None:
    folder, told = drawn
    assert sana(*DRAWN, "-o", folder / "full.png").code == 0
    passes = told["passes"]
    assert passes["without_savings"] == 20
    assert passes["computed"] + passes["first_block_only"] < 20  # steps outside of the interval
    assert passes["first_block_only"] > 0
    difference = np.abs(picture(folder / "full.png") - picture(folder / "fewer.png"))
    assert 0 < difference.mean() < 20


def test_it_is_told_and_repeated(sana: Callable[..., Any], drawn: Any) -> None:
    folder, told = drawn
    settings = read_settings(folder / "fewer.png")
    assert settings["guidance_interval"] == "0.2-0.8"
    assert settings["cache"] == 0.1
    assert told["settings"]["cache"] == 0.1
    result = sana("generate", "--from", folder / "fewer.png", "-o", folder / "second.png")
    assert result.code == 0, result.err
    assert "passes computed" in result.out
    assert (folder / "second.png").read_bytes() == (folder / "fewer.png").read_bytes()
    result = sana("info", folder / "fewer.png")
    assert "--guidance-interval 0.2-0.8 --cache 0.1" in result.out


@pytest.mark.parametrize("plan", ["branches", "streamed"])
def test_every_plan_draws_the_same(sana: Callable[..., Any], drawn: Any, plan: str) -> None:
    folder, told = drawn
    path = folder / f"{plan}.png"
    result = sana(*DRAWN, *BOTH, "--json", "--plan", plan, "-o", path)
    assert result.code == 0, result.err
    assert result.document["images"][0]["passes"] == told["passes"]
    assert np.abs(picture(path) - picture(folder / "fewer.png")).max() <= 1


def test_a_file_of_prompts(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    """A line's own, and each picture with its own caches. A picture without is another one than with."""
    file = tmp_path / "prompts.jsonl"
    lines = [
        {"prompt": "a fox", "seed": 1}, {"prompt": "a fox", "seed": 1, "cache": 0.9},
        {"prompt": "a fox", "seed": 1, "guidance_interval": "0.9-1"},
    ]  # fmt: skip
    file.write_text("\n".join(map(json.dumps, lines)))
    command = (
        "generate", "--prompts", file, "-m", tiny_model, "--size", "64x64", "--steps", 4, "--device", "cpu",
        "-o", tmp_path / "{index}.png", "--json",
    )  # fmt: skip
    result = sana(*command)
    assert result.code == 0, result.err
    counts = [image["passes"] for image in result.told("drawn")]
    assert counts[0] == {"without_savings": 8, "computed": 8, "first_block_only": 0}
    assert counts[1]["first_block_only"] > 0
    assert counts[2]["computed"] < 8
    assert len(sana(*command).told("done")) == 3
    result = sana(*command, "--cache", 0.5)
    drawn = [Path(image["path"]).name for image in result.told("drawn")]
    assert drawn == ["1-2.png", "3-2.png"], "the second says so itself"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--guidance-interval", "0.8-0.2"), "cannot use the interval '0.8-0.2'"),
        (("--guidance-interval", "0.2"), "cannot use the interval '0.2'"),
        (("--guidance-interval", "0.2-1.5"), "cannot use the interval '0.2-1.5'"),
        (("--guidance-interval", ""), "--guidance-interval is empty"),
        (("--cache", "-0.1"), "--cache -0.1 is out of range"),
        (("--cache", "nan"), "--cache nan is out of range"),
    ],
    ids=str,
)
def test_misuse(
    sana: Callable[..., Any], tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    result = sana("generate", "a fox", *options, "-o", tmp_path / "a.png")
    assert result.code == ExitCode.USAGE
    assert message in result.err
    assert not list(tmp_path.iterdir())


def test_what_has_no_effect_is_told(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    options = ("--size", "32x32", "--steps", 1, "--guidance", 1, *BOTH, "--device", "cpu")
    result = sana("generate", "a fox", "-m", tiny_model, *options, "-o", tmp_path / "a.png")
    assert result.code == 0, result.err
    assert "--guidance-interval has no effect: guidance is 1" in result.err
    assert "--cache has no effect: the picture has one step" in result.err
