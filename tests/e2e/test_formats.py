"""`-o x.webp`, `--format`, `--quality`: pictures in other formats repeat exactly, and bad values are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings

FAST = (
    "--size",
    "64x64",
    "--steps",
    1,
    "--seed",
    5,
    "--device",
    "cpu",
    "--guidance",
    3.5,
    "--negative",
    "blue",
)


@pytest.mark.parametrize(
    ("name", "quality", "format"),
    [
        ("a.webp", None, "WEBP"),
        ("a.webp", 80, "WEBP"),
        ("a.jpg", None, "JPEG"),
        ("a.jpeg", 70, "JPEG"),
    ],
)
def test_each_format_repeats_exactly(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, name: str, quality: int | None, format: str
) -> None:  # fmt: skip
    first, again, png = tmp_path / name, tmp_path / f"again-{name}", tmp_path / "a.png"
    options = ("--quality", quality) if quality else ()
    assert sana("generate", "a cat", "-m", tiny_model, *FAST, *options, "-o", first).code == 0
    assert Image.open(first).format == format
    result = sana("generate", "--from", first, "-m", tiny_model, "-o", again)
    assert result.code == 0, result.err
    assert again.read_bytes() == first.read_bytes()
    assert sana("generate", "a cat", "-m", tiny_model, *FAST, "-o", png).code == 0
    ours = {key: value for key, value in read_settings(first).items() if key != "quality"}
    assert ours == read_settings(png)
    if format == "WEBP" and quality is None:
        assert Image.open(first).convert("RGB").tobytes() == Image.open(png).tobytes()
    assert sana("info", first, "--json").document["settings"] == read_settings(first)


def test_format_of_names_that_are_made_up(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder, in a batch whose pictures are found again, and as a setting that a name overrules."""
    words = ("-m", tiny_model, *FAST[:4], "--device", "cpu")
    assert (
        sana("generate", "a cat", *words, "--seed", 3, "--format", "webp", "-o", tmp_path).code == 0
    )
    assert (tmp_path / "a-cat-3.webp").is_file()
    file = tmp_path / "p.txt"
    file.write_text("a cat\na dog\n")
    for drawn in (2, 0):
        result = sana(
            "generate",
            "--prompts",
            file,
            *words,
            "--format",
            "jpg",
            "-o",
            f"{tmp_path}/new/",
            "--json",
        )
        assert len(result.told("drawn")) == drawn
    assert sorted(p.suffix for p in (tmp_path / "new").iterdir()) == [".jpg", ".jpg"]
    monkeypatch.setenv("SANA_FORMAT", "webp")
    monkeypatch.setenv("SANA_QUALITY", "70")
    assert sana("generate", "an owl", *words, "--seed", 3, "-o", tmp_path / "o.png").code == 0
    assert Image.open(tmp_path / "o.png").format == "PNG"
    assert "quality" not in read_settings(tmp_path / "o.png")
    assert sana("generate", "an owl", *words, "--seed", 3, "-o", tmp_path).code == 0
    assert read_settings(tmp_path / "an-owl-3.webp")["quality"] == 70


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "a.gif"), "pictures are saved as .png, .jpg or .webp"),
        (("-o", "a.png", "--format", "webp"), "--format webp does not fit --output"),
        (("-o", "a.jpg", "--quality", 0), "quality 0 is out of range"),
        (("-o", "a.webp", "--quality", 101), "quality 101 is out of range"),
        (("-o", "a.webp", "--size", "16384x32"), "cannot hold 16384x32"),
        (("-o", "a.jpg", "--negative", "狐" * 18_000), "no room for a prompt of"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_values(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    options: tuple[Any, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = sana("generate", "a cat", "-m", tiny_model, *options)
    assert (result.code, message in result.err, "hint:" in result.err) == (
        ExitCode.USAGE,
        True,
        True,
    ), result.err
    assert len(result.err.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_quality_that_has_no_effect_is_named(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    result = sana(
        "generate", "a cat", "-m", tiny_model, *FAST, "--quality", 80, "-o", tmp_path / "a.png"
    )
    assert "--quality has no effect on PNG" in result.err


def test_a_folder_of_pictures(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    """Ours in every format, another program's, a preview, and files that say nothing."""
    for name in ("1.png", "2.webp"):
        assert sana("generate", "a cat", "-m", tiny_model, *FAST, "-o", tmp_path / name).code == 0
    Image.new("RGB", (8, 8)).save(tmp_path / "3.png")
    (tmp_path / "4.jpg").write_text("no picture")
    (tmp_path / "notes.txt").write_text("")
    document = sana("info", tmp_path, "--json").document
    assert [Path(p["picture"]).name for p in document["pictures"]] == [
        "1.png",
        "2.webp",
        "3.png",
        "4.jpg",
    ]
    assert [p["settings"].get("seed") for p in document["pictures"]] == [5, 5, None, None]
    assert ["problem" in p for p in document["pictures"]] == [False, False, True, True]
    lines = sana("info", tmp_path).out.splitlines()
    assert lines[0] == f"1.png  64x64  seed 5  {tiny_model.name}  a cat"
    assert lines[2] == "3.png  no settings"
    assert json.dumps(document)


def test_python(pipelines: Any, tmp_path: Path) -> None:
    from sana_cli.errors import SanaError
    from sana_cli.pipeline import SanaPipeline

    with SanaPipeline.open(pipelines.folder("plain"), device="cpu") as pipe:
        result = pipe("a cat", seed=1, steps=1, width=64, height=64)
        saved = result.save(tmp_path / "a.webp", quality=70)
        assert saved.settings["quality"] == 70
        assert read_settings(tmp_path / "a.webp") == saved.settings
        with pytest.raises(SanaError, match="cannot write"):
            result.save(tmp_path / "a.gif")
