"""`sana generate` as people and scripts use it, on a tiny random pipeline."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli.images.picture_file import read_settings

FAST = ("--size", "64x96", "--steps", "2", "--device", "cpu", "--precision", "fp32")


def test_json_document(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    result = sana(
        "generate", "A Fox", "-m", tiny_model, "-o", tmp_path / "a.png", *FAST,
        "--seed", 5, "--count", 2, "--negative", "blurry", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    document = result.document
    assert document["model"] == tiny_model.name
    assert document["device"] == "cpu"
    assert [image["seed"] for image in document["images"]] == [5, 6]
    for image in document["images"]:
        path = Path(image["path"])
        assert Image.open(path).size == (image["width"], image["height"]) == (64, 96)
        seconds = image["seconds"]
        assert list(seconds) == ["load", "text", "denoise", "decode", "save", "other", "total"]
        assert 0 < seconds["denoise"] <= seconds["total"]
        assert sum(seconds.values()) == pytest.approx(2 * seconds["total"], abs=1e-3)
        assert image["peak_memory_bytes"] > 10_000_000
        assert read_settings(path) == image["settings"]
    first, second = document["images"]
    assert first["seconds"]["load"] > 0
    assert second["seconds"]["load"] == 0, "the model stays loaded across --count"
    assert Image.open(first["path"]).tobytes() != Image.open(second["path"]).tobytes()


def test_settings_in_the_png(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    sana("generate", "A Fox", "-m", tiny_model, "-o", path, *FAST, "--seed", 5)
    settings = read_settings(path)
    assert settings["prompt"] == "A Fox"
    assert (settings["seed"], settings["steps"], settings["size"]) == (5, 2, "64x96")
    assert (settings["scheduler"], settings["precision"]) == ("flow-dpm", "fp32")
    with Image.open(path) as image:
        assert image.text["parameters"].startswith("A Fox\nSteps: 2, Sampler: flow-dpm")
        assert image.text["negative_prompt"] == ""


def test_same_seed_same_file(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        result = sana("generate", "x", "-m", tiny_model, "-o", tmp_path / name, *FAST, "--seed", 1)
        assert result.code == 0, result.err
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_summary_and_quiet(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    result = sana("generate", "x", "-m", tiny_model, "-o", path, *FAST, "--seed", 3)
    assert str(path) in result.out
    assert "seed 3" in result.out
    assert "64x96" in result.out
    assert "peak memory" in result.out
    quiet = sana("generate", "x", "-m", tiny_model, "-o", path, *FAST, "--quiet", "--force")
    assert (quiet.out, quiet.err) == (f"{path}\n", "")


def test_names_of_its_own(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert sana("generate", "A fox!", "-m", tiny_model, *FAST, "--seed", 3).code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-fox-3-2.png", "a-fox-3.png"]
    folder = tmp_path / "out"
    folder.mkdir()
    result = sana("generate", "A fox!", "-m", tiny_model, *FAST, "-o", folder, "--count", 2)
    assert result.code == 0
    assert len(list(folder.iterdir())) == 2


def test_random_seed_is_told(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    seeds = set()
    for name in ("a.png", "b.png"):
        options = ("-m", tiny_model, "-o", tmp_path / name, *FAST, "--json")
        image = sana("generate", "x", *options).document["images"][0]
        assert read_settings(tmp_path / name)["seed"] == image["seed"]
        seeds.add(image["seed"])
    assert len(seeds) == 2


def test_bins_draw_at_a_published_size(
    sana: Callable[..., Any], pipelines: Any, tmp_path: Path
) -> None:
    folder = pipelines.folder("native_512")
    result = sana(
        "generate", "x", "-m", folder, "-o", tmp_path / "a.png", "--width", 100, "--height", 57,
        "--steps", 1, "--bins", "--json", "--device", "cpu", "--precision", "fp32",
    )  # fmt: skip
    assert result.code == 0, result.err
    image = result.document["images"][0]
    assert (image["width"], image["height"]) == (100, 57)
    assert Image.open(tmp_path / "a.png").size == (100, 57)
    assert image["settings"]["drawn_size"] == "672x384"


def test_model_from_the_environment(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANA_MODEL", str(tiny_model))
    result = sana("generate", "x", "-o", tmp_path / "a.png", *FAST, "--json")
    assert result.document["model"] == tiny_model.name


def test_notices(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    options = ("-m", tiny_model, "-o", tmp_path / "a.png", "--force", *FAST)
    long = sana("generate", "fox " * 400, *options)
    assert "too long" in long.err
    ignored = sana("generate", "fox", *options, "--negative", "cat", "--guidance", 1)
    assert "--negative has no effect" in ignored.err


def test_as_a_process(tiny_model: Path, tmp_path: Path) -> None:
    """The installed module: progress stays off a pipe, stdout is one document, stderr is silent."""
    done = subprocess.run(
        [sys.executable, "-m", "sana_cli", "generate", "x", "-m", tiny_model, "--json", *FAST,
         "-o", tmp_path / "a.png"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["images"][0]["path"] == str(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a red apple left of two blue cats", '"an apple", "cats"'),
        ("a purple puppy", '"a puppy"'),
        ("an apple and a red circle on a blue background", ""),
        ("a big taxi", ""),
    ],
)
def test_colours_that_the_built_in_model_does_not_know(
    sana: Callable[..., Any], tmp_path: Path, prompt: str, told: str
) -> None:
    """It knows every word, and has seen things in their own colours only."""
    words = ("--steps", 1, "--device", "cpu", "-m", "builtin", "-o", tmp_path / "a.png")
    result = sana("generate", prompt, *words)
    assert result.code == 0
    assert "does not know these words" not in result.err
    notice = f"builtin draws things without a colour word best: try {told}\n"
    assert (notice in result.err) == bool(told), result.err


def test_processes_that_want_one_name(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    """Prompts of one file name at once: nothing is replaced, and what found its name taken is finished later."""
    out, prompts = tmp_path / "out", ("a cat", "a cat!")
    out.mkdir()
    words = (
        "-m",
        tiny_model,
        "--size",
        "32x32",
        "--steps",
        1,
        "--seed",
        1,
        "--device",
        "cpu",
        "-o",
        out,
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "sana_cli", "generate", prompt, *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for prompt in prompts
    ]  # fmt: skip
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0 or "the finished latents are kept" in err, err
    for kept in out.glob("*.latents.safetensors"):
        result = sana("decode", kept, "-o", out / f"finished-{kept.stem}.png", "--device", "cpu")
        assert result.code == 0, result.err
    pictures = {read_settings(path)["prompt"]: path for path in out.glob("*.png")}
    assert sorted(pictures) == sorted(prompts)
    assert len(list(out.iterdir())) == len(prompts), "and nothing else is left"
    for prompt, path in pictures.items():
        alone = tmp_path / "alone.png"
        assert sana("generate", prompt, *words[:-1], alone, "--force").code == 0
        assert alone.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("prompt", "known"),
    [("a lighthouse in a storm, oil painting", False), ("red", False), ("two cats", True), ("a blue circle", True)],
)  # fmt: skip
def test_a_prompt_of_which_the_built_in_model_knows_nothing(
    sana: Callable[..., Any], tmp_path: Path, prompt: str, known: bool
) -> None:
    words = ("--steps", 1, "--size", 64, "-m", "builtin", "-o", tmp_path / "a.png")
    told = (
        'builtin knows none of the things in this prompt: try "a cat"'
        in sana("generate", prompt, *words).err
    )
    assert told is not known
