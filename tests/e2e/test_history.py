"""`sana history`: pictures of every command are remembered, found, shown and repeated by number; not if unwanted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings

FAST = ("--size", "64x64", "--steps", 1, "--device", "cpu")


@pytest.fixture(autouse=True)
def _own_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANA_PICTURES", str(tmp_path / "index/pictures.db"))


def test_remembered_found_and_repeated(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    words = ("generate", "a cat", "-m", tiny_model, *FAST)
    assert sana(*words, "--seed", 5, "-o", tmp_path / "a.png").code == 0
    assert sana(*words, "--seed", "6-7", "-o", tmp_path / "b.webp").code == 0
    file = tmp_path / "p.txt"
    file.write_text("a dog\n")
    assert (
        sana("generate", "--prompts", file, "-m", tiny_model, *FAST, "-o", f"{tmp_path}/o/").code
        == 0
    )
    found = sana("history", "--json").document["pictures"]
    assert [each["number"] for each in found] == [4, 3, 2, 1]
    assert [Path(each["picture"]).name for each in found][1:] == [
        "b-seed7.webp",
        "b-seed6.webp",
        "a.png",
    ]
    assert all(
        each["exists"] and each["settings"] == read_settings(Path(each["picture"]))
        for each in found
    )
    lines = sana("history", "cat", "--seed", 5).out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("#1  20")
    assert lines[0].endswith(f"seed 5  {tiny_model.name}  a cat  {tmp_path}/a.png")
    shown = sana("history", "--show")
    assert (len(shown.out.splitlines()), shown.err.count("--show has no effect")) == (4, 1)
    result = sana("generate", "--from", 1, "-m", tiny_model, "-o", tmp_path / "again.png")
    assert result.code == 0, result.err
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").unlink()
    assert sana("history", "--seed", 5).out.splitlines()[-1].endswith("a.png  (gone)")
    for number, message in (
        ("#1", "picture #1 is no longer there"),
        ("99", "no picture is remembered as 99"),
    ):
        result = sana("generate", "--from", number)
        assert (result.code, message in result.err, "hint:" in result.err) == (
            ExitCode.USAGE,
            True,
            True,
        )


def test_off_by_a_setting(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANA_REMEMBER", "false")
    assert sana("generate", "a cat", "-m", tiny_model, *FAST, "-o", tmp_path / "a.png").code == 0
    assert not (tmp_path / "index").exists()
    assert sana("history", "--json").document["pictures"] == []
    assert sana("history", "--rebuild", "--folder", tmp_path).out.startswith("1 picture in ")
    assert len(sana("history").out.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--since", "soon"), "--since 'soon' is no date"),
        (("--folder", "x"), "give --folder or a search"),
        (
            ("--rebuild", "--folder", "nowhere"),
            "nowhere is not there\nhint: name a folder of pictures",
        ),
        (("--show", "--json"), "give --show or --json, not both"),
        (("--limit", "0"), "limit"),
    ],
)
def test_bad_input(sana: Callable[..., Any], words: tuple[str, ...], message: str) -> None:
    result = sana("history", *words)
    assert (result.code, message in result.err, "hint:" in result.err) == (
        ExitCode.USAGE,
        True,
        True,
    )


def test_an_index_that_cannot_be_written_spoils_nothing(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "index").write_text("a file where a folder should be")
    result = sana("generate", "a cat", "-m", tiny_model, *FAST, "-o", tmp_path / "a.png")
    assert (result.code, (tmp_path / "a.png").is_file()) == (0, True)


def test_odd_numbers_and_words(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    assert sana("generate", "a cat", "-m", tiny_model, *FAST, "-o", tmp_path / "a.png").code == 0
    assert len(sana("history", "--limit", 10**30, "--json").document["pictures"]) == 1
    for words in (("\udcff",), ("--model", "\udcff")):
        result = sana("history", *words)
        assert (result.code, "is not valid text" in result.err) == (ExitCode.USAGE, True), (
            result.err
        )
        assert "remove" not in result.err, "the index is sound"
