"""`--wildcards`: choices follow from the seed, are told in the picture, and are repeated by `--from`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings

FAST = ("--size", "64x64", "--steps", 1, "--device", "cpu")
TEMPLATE = "a {red|green|blue} __animals__"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "words").mkdir()
    (tmp_path / "words/animals.txt").write_text("cat\ndog\nowl\n")
    return tmp_path / "words"


def test_off_unless_asked(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    result = sana("generate", TEMPLATE, "-m", tiny_model, *FAST, "-o", tmp_path / "a.png")
    assert read_settings(tmp_path / "a.png")["prompt"] == TEMPLATE
    assert "--wildcards chooses among {a|b} and __name__" in result.err


def test_choices_follow_from_the_seed_and_are_repeated(
    sana: Callable[..., Any],
    tiny_model: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("-m", tiny_model, *FAST, "--wildcards-folder", folder)
    result = sana(
        "generate", TEMPLATE, *words, "--count", 6, "--seed", 1, "-o", tmp_path / "{seed}.png"
    )
    assert result.code == 0, result.err
    drawn = [read_settings(tmp_path / f"{seed}.png") for seed in range(1, 7)]
    assert {each["template"] for each in drawn} == {TEMPLATE}
    assert len({each["prompt"] for each in drawn}) > 2
    assert f"prompt: {drawn[0]['prompt']}" in result.out
    assert sana("generate", TEMPLATE, *words, "--seed", 4, "-o", tmp_path / "again.png").code == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "4.png").read_bytes()
    # Repeated without the files, and whatever the setting says.
    (folder / "animals.txt").unlink()
    monkeypatch.setenv("SANA_WILDCARDS", "true")
    assert (
        sana(
            "generate", "--from", tmp_path / "4.png", "-m", tiny_model, "-o", tmp_path / "from.png"
        ).code
        == 0
    )
    assert (tmp_path / "from.png").read_bytes() == (tmp_path / "4.png").read_bytes()


def test_from_makes_the_choices_anew(
    sana: Callable[..., Any], tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    words = ("-m", tiny_model, "--wildcards-folder", folder)
    for seed in (1, 2):
        path = tmp_path / f"{seed}.png"
        assert sana("generate", TEMPLATE, *words, *FAST, "--seed", seed, "-o", path).code == 0
    out = tmp_path / "other.png"
    assert sana("generate", "--from", tmp_path / "1.png", *words, "--seed", 2, "-o", out).code == 0
    assert read_settings(out) == read_settings(tmp_path / "2.png")
    words = ("generate", "--from", tmp_path / "1.png", "-m", tiny_model, "--force", "-o", out)
    assert sana(*words[:3], "a cow", *words[3:]).code == 0
    assert "template" not in read_settings(out), "another prompt comes from no template"


def test_files_of_prompts(
    sana: Callable[..., Any], tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    """Lines choose for themselves; a rerun finds them; a bad one names its line, and the others are drawn."""
    file = tmp_path / "p.jsonl"
    file.write_text(
        f'{{"prompt": "{TEMPLATE}"}}\n{{"prompt": "a {{x|y}}", "wildcards": false}}\n{{"prompt": "a {{b"}}\n'
    )
    words = (
        "generate",
        "--prompts",
        file,
        "-m",
        tiny_model,
        *FAST,
        "--wildcards",
        "--wildcards-folder",
        folder,
    )
    result = sana(*words, "-o", f"{tmp_path}/out/", "--json")
    first, second = (each["settings"] for each in result.told("drawn"))
    assert first["template"] == TEMPLATE
    assert first["prompt"] in {
        f"a {c} {a}" for c in ("red", "green", "blue") for a in ("cat", "dog", "owl")
    }
    assert (second["prompt"], "template" in second) == ("a {x|y}", False)
    assert "no such syntax" not in result.err, "the line asks for plain words"
    assert "line 3: the brace at character 3" in result.told("error")[0]["error"]["message"]
    again = sana(*words, "-o", f"{tmp_path}/out/", "--json")
    assert (len(again.told("done")), len(again.told("drawn"))) == (2, 0)


def test_dry_run_repl_and_bad_input(
    sana: Callable[..., Any],
    tiny_model: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("generate", "a {red|red} cat", "-m", tiny_model, "--wildcards")
    assert "prompt: a red cat" in sana(*words, "--dry-run").out
    for prompt, message in (
        ("a {b", "the brace at character 3"),
        ("__cow__", "wildcards is no folder"),
    ):
        result = sana("generate", prompt, "-m", tiny_model, "--wildcards")
        assert (result.code, message in result.err, "hint: " in result.err) == (
            ExitCode.USAGE,
            True,
            True,
        )
    result = sana(*words, "--wildcards-folder", "nowhere", "-o", "x.png")
    assert result.code == ExitCode.USAGE, "also where the prompt has alternatives only"
    assert "error: --wildcards-folder nowhere is no folder\nhint: " in result.err
    assert sana("config", "set", "wildcards_folder", "none").code == ExitCode.USAGE
    assert sana("config", "set", "wildcards_folder", "words").code == 0
    assert sana("config", "get", "wildcards_folder").out.strip() == str(folder)


def test_python(pipelines: Any, folder: Path) -> None:
    from sana_cli.pipeline import SanaPipeline

    with SanaPipeline.open(pipelines.folder("plain"), device="cpu") as pipe:
        params = pipe.params(TEMPLATE, seed=4, wildcards_folder=str(folder))
        assert params.template == TEMPLATE
        assert (
            params.prompt
            == pipe.params(TEMPLATE, seed=4, wildcards=True, wildcards_folder=str(folder)).prompt
        )
        assert pipe.params(TEMPLATE, seed=4).prompt == TEMPLATE
