"""`--control`: quantized models, prompt files, `--from`, what is told, and what cannot work. Agreement: tests/parity/test_control.py."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings
from tests.hed_files import write_hed

FAST = ("--steps", 2, "--seed", 3, "--device", "cpu", "--precision", "fp32")


@pytest.fixture(scope="module")
def model(pipelines: Any) -> Path:
    return pipelines.folder("controlnet")


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    image = Image.new("RGB", (96, 64))
    ImageDraw.Draw(image).ellipse((20, 8, 70, 56), outline="white", width=3)
    image.save(tmp_path / "lines.png")
    return tmp_path / "lines.png"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(float)


@pytest.mark.parametrize("recipe", ["w8a8", "int4"])
def test_quantized(
    sana: Callable[..., Any], model: Path, lines: Path, tmp_path: Path, recipe: str
) -> None:
    """The ControlNet is quantized as the transformer is, in the same order of blocks."""
    folder, words = tmp_path / recipe, ("--control", lines, *FAST)
    result = sana(
        "quantize", model, folder, "--samples", 0, "--recipe", recipe, "--text-encoder", "w8a16", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    part = result.document["components"]["controlnet"]
    assert part["layers_quantized"] > 0
    assert part["scheme"] == result.document["components"]["transformer"]["scheme"]
    assert "first layer of the branch" in part["kept"]["input_block"]
    for name, where in (("float", model), ("quantized", folder)):
        done = sana("generate", "a fox", "-m", where, *words, "-o", tmp_path / f"{name}.png")
        assert done.code == 0, done.err
    error = np.square(pixels(tmp_path / "quantized.png") - pixels(tmp_path / "float.png")).mean()
    psnr = 10 * np.log10(255**2 / error)
    assert psnr > (30 if recipe == "w8a8" else 18), psnr


def test_repeated_from_a_picture(
    sana: Callable[..., Any], model: Path, lines: Path, tmp_path: Path
) -> None:
    words = ("-m", model, "--control", f"{lines}:0.7", "--control-order", "trained", *FAST)
    assert sana("generate", "a fox", *words, "-o", tmp_path / "a.png").code == 0
    settings = read_settings(tmp_path / "a.png")
    assert settings["control"] == str(lines)
    assert (settings["control_scale"], settings["control_order"]) == (0.7, "trained")
    again = sana("generate", "--from", tmp_path / "a.png", "-m", model, "-o", tmp_path / "b.png")
    assert again.code == 0, again.err
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    told = sana("info", tmp_path / "a.png").out
    assert "--control-scale 0.7" in told
    Image.new("RGB", (96, 64)).save(lines)
    changed = sana("generate", "--from", tmp_path / "a.png", "-m", model, "-o", tmp_path / "c.png")
    assert changed.code == ExitCode.USAGE
    assert "--control" in changed.err


def test_prompt_file(sana: Callable[..., Any], model: Path, lines: Path, tmp_path: Path) -> None:
    """One load; each line may follow its own picture, or none."""
    entries = [
        {"prompt": "a fox", "control": str(lines), "control_scale": 0.5},
        {"prompt": "a fox", "control": str(lines)},
        {"prompt": "a fox", "width": 96, "height": 64},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    result = sana("generate", "--prompts", path, "-m", model, *FAST, "-o", tmp_path / "{index}.png")
    assert result.code == 0, result.err
    for i, words in enumerate(
        [("--control", f"{lines}:0.5"), ("--control", lines), ("--size", "96x64")], 1
    ):
        alone = tmp_path / f"alone-{i}.png"
        assert sana("generate", "a fox", "-m", model, *FAST, *words, "-o", alone).code == 0
        assert np.array_equal(pixels(alone), pixels(tmp_path / f"{i}.png")), i


def test_dry_run_counts_the_branch(sana: Callable[..., Any], model: Path, lines: Path) -> None:
    def denoise(*words: object) -> int:
        result = sana("generate", "a fox", "-m", model, *FAST, *words, "--dry-run", "--json")
        assert result.code == 0, result.err
        stages = {stage["stage"]: stage for stage in result.document["stages"]}
        assert ("encode" in stages) == ("--control" in words)
        return int(stages["denoise"]["weights"])

    branch = (model / "controlnet/diffusion_pytorch_model.safetensors").stat().st_size
    more = denoise("--control", lines) - denoise("--size", "96x64")
    assert 0.9 * branch < more < 1.1 * branch


NO_NET = "has no ControlNet"
BAD = {
    "no ControlNet": (("-m", "builtin", "--control", "LINES"), NO_NET),
    "scale alone": (("--control-scale", 1), "--control-scale needs a picture"),
    "type alone": (("--control-type", "canny"), "--control-type needs a picture"),
    "order alone": (("--control-order", "trained"), "--control-order needs a picture"),
    "no file": (("--control", "nowhere.png"), "nowhere.png"),
    "no picture": (("--control", __file__), "test_control.py"),
    "scale": (("--control", "LINES:99"), "99 is out of range"),
    "negative": (("--control", "LINES", "--control-scale", -1), "-1 is out of range"),
    "nan": (("--control", "LINES:nan"), "nan is out of range"),
    "type": (("--control", "LINES", "--control-type", "pose"), "pose"),
    "order": (("--control", "LINES", "--control-order", "upwards"), "upwards"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(
    sana: Callable[..., Any], model: Path, lines: Path, tmp_path: Path, case: str
) -> None:
    words, message = BAD[case]
    said = [str(word).replace("LINES", str(lines)) for word in words]
    result = sana("generate", "a fox", "-m", model, *FAST, *said, "-o", tmp_path / "a.png")
    assert result.code == ExitCode.USAGE
    assert message in result.err
    assert len(result.err.strip().splitlines()) <= 2
    assert not (tmp_path / "a.png").exists()


def test_a_branch_of_another_model(
    sana: Callable[..., Any], model: Path, lines: Path, tmp_path: Path
) -> None:
    """Refused when the model is opened, whatever is drawn."""
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    config = json.loads((copy / "controlnet/config.json").read_text())
    for change, message in (
        ({"num_layers": 3}, "3 blocks for a transformer of 3"),
        ({"caption_channels": 8}, "caption_channels is 8"),
        ({"_class_name": "FluxControlNetModel"}, "FluxControlNetModel"),
    ):
        (copy / "controlnet/config.json").write_text(json.dumps(config | change))
        result = sana("generate", "a fox", "-m", copy, *FAST)
        assert (result.code, message in result.err) == (ExitCode.CHECKPOINT, True), result.err
    (copy / "controlnet/config.json").write_text(json.dumps(config))
    weights = copy / "controlnet/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["input_block.weight"] = torch.zeros(3, 3)
    save_file(tensors, weights)
    result = sana("generate", "a fox", "-m", copy, *FAST)
    assert result.code == ExitCode.CHECKPOINT
    assert "controlnet: input_block.weight has shape [3, 3]" in result.err


def test_lines_by_hed(
    sana: Callable[..., Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an ordinary picture; missing, named, kept by a setting, and repeated from the picture."""
    monkeypatch.setenv("SANA_MODELS", str(tmp_path / "models"))
    photograph, network = tmp_path / "photo.png", write_hed(tmp_path / "ControlNetHED.pth")
    picture = Image.new("RGB", (96, 64), "skyblue")
    ImageDraw.Draw(picture).ellipse((20, 8, 70, 56), fill="firebrick")
    picture.save(photograph)
    words = (
        "generate", "a fox", "-m", model, "--control", photograph, "--control-type", "scribble", *FAST,
    )  # fmt: skip
    missing = sana(*words, "-o", tmp_path / "a.png")
    assert missing.code == ExitCode.ENVIRONMENT
    assert "`sana pull hed` downloads it" in missing.err
    assert not (tmp_path / "a.png").exists()
    done = sana(*words, "--control-hed", network, "-o", tmp_path / "a.png")
    assert done.code == 0, done.err
    settings = read_settings(tmp_path / "a.png")
    assert settings["control_type"] == "scribble"
    assert settings["control_hed_digest"]
    again = ("generate", "--from", tmp_path / "a.png", "-m", model, "-o", tmp_path / "b.png")
    assert sana("config", "set", "control_hed", network).code == 0
    told = sana(*again)
    assert told.code == 0, told.err
    assert "HED" not in told.err
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    other = write_hed(tmp_path / "other.pth", seed=1)
    told = sana(*again, "--force", "--dry-run", "--control-hed", other)
    assert told.code == 0, told.err
    assert "found by another HED network" in told.err


def test_hed_takes_memory(
    sana: Callable[..., Any], model: Path, lines: Path, tmp_path: Path
) -> None:
    network = write_hed(tmp_path / "ControlNetHED.pth")
    needed = {}
    for kind, named in (("none", ()), ("hed", ("--control-hed", network))):
        plan = sana(
            "generate", "a fox", "-m", model, "--control", lines, "--control-type", kind, *named,
            *FAST, "--dry-run", "--json",
        )  # fmt: skip
        assert plan.code == 0, plan.err
        stages = {stage["stage"]: stage for stage in plan.document["stages"]}
        needed[kind] = stages["encode"]["total"]
    assert needed["hed"] - needed["none"] > 300 * 2**20, "HED's weights and its maps of 512 x 768"
