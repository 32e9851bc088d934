"""`--pag`: in pictures, `--from`, files of prompts, Python; and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings

FAST = ("--size", "64x64", "--steps", 1, "--seed", 5, "--device", "cpu")


def test_pictures_store_the_layer_and_repeat_it(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    first, again, plain = (tmp_path / f"{name}.png" for name in ("first", "again", "plain"))
    assert sana("generate", "a cat", "-m", tiny_model, *FAST, "--pag", "2.5", "-o", first).code == 0
    assert read_settings(first)["pag"] == "2.5:1", "the middle of two blocks"
    assert sana("generate", "--from", first, "-m", tiny_model, "-o", again).code == 0
    assert again.read_bytes() == first.read_bytes()
    assert "--pag 2.5:1" in sana("info", first).out
    assert sana("generate", "--from", first, "--pag", 0, "-m", tiny_model, "-o", plain).code == 0
    assert "pag" not in read_settings(plain)


def test_files_of_prompts_and_a_setting(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(
        '{"prompt": "a cat", "pag": 2}\n{"prompt": "a dog", "pag": "3:0"}\n{"prompt": "an owl"}\n'
    )
    monkeypatch.setenv("SANA_PAG", "1")
    words = (
        "--prompts",
        file,
        "-m",
        tiny_model,
        *FAST[:4],
        "--device",
        "cpu",
        "-o",
        f"{tmp_path}/o/",
        "--json",
    )
    drawn = sana("generate", *words).told("drawn")
    assert [each["settings"]["pag"] for each in drawn] == ["2.0:1", "3.0:0", "1.0:1"]
    assert len(sana("generate", *words).told("done")) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pag", "x"), "cannot use --pag 'x'"),
        (("--pag", "2:9"), "there is no block 9"),
        (("--pag", "2", "--cache", "0.1"), "give --pag or --cache, not both"),
    ],
)
def test_bad_values(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
) -> None:
    result = sana("generate", "a cat", "-m", tiny_model, *options, "-o", tmp_path / "a.png")
    assert (result.code, message in result.err, "hint:" in result.err) == (
        ExitCode.USAGE,
        True,
        True,
    )


def test_sprint_refuses_it(sana: Callable[..., Any], pipelines: Any, tmp_path: Path) -> None:
    result = sana(
        "generate", "a cat", "-m", pipelines.folder("sprint"), "--pag", 2, "-o", tmp_path / "a.png"
    )
    assert (result.code, "--pag does not fit" in result.err) == (ExitCode.USAGE, True)


def test_the_forecast_counts_it(sana: Callable[..., Any], tiny_model: Path) -> None:
    words = (
        "generate",
        "a cat",
        "-m",
        tiny_model,
        "--size",
        "512x512",
        "--dry-run",
        "--json",
        "--device",
        "cpu",
    )
    peaks = []
    for pag in ("0", "2"):
        stages = sana(*words, "--pag", pag).document["stages"]
        peaks.append(next(s["activations"] for s in stages if s["stage"] == "denoise"))
    assert peaks[1] > 1.3 * peaks[0]
