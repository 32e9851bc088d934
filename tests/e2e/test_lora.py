"""`--lora`: it is merged, or runs beside what is quantized, under every plan; settings repeat it; mistakes are told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sana_cli.checkpoints.checkpoint import weight_headers
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings
from tests.pictures import pixels

FAST = ("--size", "64x64", "--steps", 2, "--seed", 3, "--device", "cpu", "--precision", "fp32")


@pytest.fixture
def loras(lora_files: Any, tiny_model: Path, tmp_path: Path) -> list[Path]:
    headers = weight_headers(open_checkpoint(str(tiny_model)), "transformer")
    shapes = {name: shape for name, (_, shape) in headers.items()}
    return [
        lora_files.write_lora(tmp_path / f"style-{seed}.safetensors", lora_files.random_lora(shapes, seed=seed))
        for seed in (0, 1)
    ]  # fmt: skip


@pytest.fixture
def draw(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> Callable[..., Any]:
    """Draw with the tiny model; the pixels."""

    def run(name: str, *options: object, model: object = tiny_model) -> np.ndarray:
        path = tmp_path / f"{name}.png"
        result = sana("generate", "A Fox", "-m", model, "-o", path, *FAST, *options)
        assert result.code == 0, result.err
        return pixels(path)

    return run


def test_scales_and_sums(draw: Callable[..., Any], loras: list[Path]) -> None:
    one, other = loras
    plain, full = draw("plain"), draw("full", "--lora", one)
    half, none = draw("half", "--lora", f"{one}:0.5"), draw("none", "--lora", f"{one}:0")
    assert np.array_equal(none, plain)
    assert np.abs(full - plain).mean() > np.abs(half - plain).mean() > 0.5
    both = draw("both", "--lora", one, "--lora", other)
    assert not np.array_equal(both, full)
    halves = draw("halves", "--lora", f"{one}:0.5", "--lora", f"{one}:0.5")
    assert np.abs(halves - full).max() <= 1, "the same twice adds up"


def test_every_plan_draws_the_same(draw: Callable[..., Any], loras: list[Path]) -> None:
    words = ("--lora", f"{loras[0]}:0.8", "--no-prompt-cache")
    resident, apart, streamed = (
        draw(plan, *words, "--plan", plan) for plan in ("resident", "branches", "streamed")
    )
    assert np.array_equal(apart, streamed)
    assert np.abs(apart - resident).max() <= 1


def test_with_a_picture_to_begin_with(
    draw: Callable[..., Any], loras: list[Path], tmp_path: Path
) -> None:
    Image.effect_noise((64, 64), 90).save(tmp_path / "in.png")
    words = ("--image", tmp_path / "in.png", "--strength", 0.5)
    assert not np.array_equal(draw("a", *words), draw("b", *words, "--lora", loras[0]))


@pytest.fixture
def w8a8(quantized: Callable[..., Path]) -> Path:
    return quantized("w8a8")


@pytest.fixture(scope="module")
def tiny(pipelines: Any) -> Path:
    return pipelines.folder("plain")


@pytest.mark.parametrize("plan", ["stages", "streamed"])
def test_beside_quantized_layers(
    draw: Callable[..., Any], loras: list[Path], w8a8: Path, plan: str
) -> None:
    """As far from the float model's picture with the LoRA as without."""
    words = ("--lora", loras[0])
    plain, small = draw("plain"), draw("small", "--plan", plan, model=w8a8)
    changed, both = draw("lora", *words), draw("both", *words, "--plan", plan, model=w8a8)
    assert np.abs(changed - plain).mean() > 5
    assert np.abs(both - changed).mean() < 2 * np.abs(small - plain).mean() + 1


def test_quantized_with_it(
    sana: Callable[..., Any],
    draw: Callable[..., Any],
    loras: list[Path],
    tiny: Path,
    tmp_path: Path,
) -> None:
    """Merged before quantization: nothing is needed beside the folder."""
    changed, plain = draw("lora", "--lora", f"{loras[0]}:0.7"), draw("plain")
    folder = tmp_path / "small"
    schemes = ("--transformer", "w8a16", "--vae", "none", "--text-encoder", "none")
    words = ("quantize", tiny, folder, "--samples", 0, "--quiet", *schemes)
    assert sana(*words, "--lora", f"{loras[0]}:0.7").code == 0
    small = draw("small", model=folder)
    assert np.abs(small - changed).mean() < np.abs(small - plain).mean() / 4
    assert "style-0.safetensors:0.7" in (folder / "manifest.json").read_text()


def test_from_repeats_it(
    sana: Callable[..., Any],
    draw: Callable[..., Any],
    loras: list[Path],
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    one, other = loras
    draw("first", "--lora", f"{one}:0.3", "--lora", other)
    settings = read_settings(tmp_path / "first.png")
    assert settings["loras"] == [f"{one}:0.3", f"{other}:1.0"]
    assert f"--lora {one}:0.3 --lora {other}:1.0" in sana("info", tmp_path / "first.png").out
    words = ("generate", "--from", tmp_path / "first.png", "-m", tiny_model, "--precision", "fp32")
    assert sana(*words, "-o", tmp_path / "again.png").code == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "first.png").read_bytes()
    assert sana(*words, "-o", tmp_path / "one.png", "--lora", other).code == 0
    assert read_settings(tmp_path / "one.png")["loras"] == [f"{other}:1.0"]
    one.write_bytes(other.read_bytes())
    result = sana(*words, "-o", tmp_path / "c.png")
    assert result.code == ExitCode.USAGE
    assert f"was made from {one}, which has changed since" in result.err


def test_a_file_of_prompts(
    sana: Callable[..., Any],
    draw: Callable[..., Any],
    loras: list[Path],
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    """The model is loaded again where the LoRAs change; texts are projected again, too."""
    lines = tmp_path / "lines.jsonl"
    lines.write_text(
        f'{{"prompt": "A Fox", "lora": "{loras[0]}"}}\n{{"prompt": "A Fox"}}\n'
        f'{{"prompt": "A Fox", "lora": ["{loras[0]}:0.5", "{loras[1]}"]}}\n'
    )
    (tmp_path / "out").mkdir()
    words = ("generate", "--prompts", lines, "-o", tmp_path / "out", "-m", tiny_model, *FAST)
    result = sana(*words)
    assert result.code == 0, result.err
    alone = [
        draw("a", "--lora", loras[0]), draw("b"),
        draw("c", "--lora", f"{loras[0]}:0.5", "--lora", loras[1]),
    ]  # fmt: skip
    for path, expected in zip(sorted((tmp_path / "out").glob("*.png")), alone, strict=True):
        assert np.array_equal(pixels(path), expected)
    assert "3 of 3 pictures are done" in sana(*words).err
    lines.write_text('{"prompt": "A Fox", "lora": [1]}\n')
    assert "unusable 'lora'" in sana(*words).err


@pytest.mark.parametrize(
    ("lora", "code", "message"),
    [
        ("no-such.safetensors", ExitCode.USAGE, "no such LoRA: no-such.safetensors"),
        ("{one}:strong", ExitCode.USAGE, "no such LoRA"),
        ("{one}:1000", ExitCode.USAGE, "out of range"),
        ("", ExitCode.USAGE, "--lora is empty"),
        ("{model}/transformer/diffusion_pytorch_model.safetensors", ExitCode.CHECKPOINT, "unknown tensor"),
        ("{text}", ExitCode.CHECKPOINT, "truncated or corrupt"),
    ],
)  # fmt: skip
def test_misuse(
    sana: Callable[..., Any], loras: list[Path], tiny_model: Path, tmp_path: Path, lora: str, code: int,
    message: str,
) -> None:  # fmt: skip
    (tmp_path / "text.safetensors").write_text("no tensors")
    given = lora.format(one=loras[0], model=tiny_model, text=tmp_path / "text.safetensors")
    words = ("-m", tiny_model, "-o", tmp_path / "a.png", *FAST)
    result = sana("generate", "A Fox", *words, "--lora", given)
    assert result.code == code, result.err
    assert message in result.err
    assert not (tmp_path / "a.png").exists()


def test_alphas_are_read_before_any_work(
    sana: Callable[..., Any], loras: list[Path], tiny_model: Path, tmp_path: Path
) -> None:
    halves = load_file(loras[0])
    alphas = {
        name.replace(".lora_A.weight", ".alpha"): torch.tensor(3.0)
        for name in halves
        if "lora_A" in name
    }
    bad = next(iter(alphas))
    save_file(halves | alphas | {bad: torch.tensor(torch.nan)}, tmp_path / "nan.safetensors")
    words = (
        "-m",
        tiny_model,
        "-o",
        tmp_path / "a.png",
        *FAST,
        "--lora",
        tmp_path / "nan.safetensors",
    )
    dry = sana("generate", "A Fox", *words, "--dry-run")
    assert dry.code == ExitCode.CHECKPOINT
    assert f"{bad} is NaN or infinite" in dry.err
    assert "hint: get it again from where it came" in dry.err
    assert sana("generate", "A Fox", *words) == dry


def test_one_of_another_width(sana: Callable[..., Any], loras: list[Path], tmp_path: Path) -> None:
    """Told before the text is encoded."""
    result = sana(
        "generate", "a cat", "-o", tmp_path / "a.png", "--lora", loras[0], "--device", "cpu"
    )
    assert result.code == ExitCode.CHECKPOINT
    assert "does not fit: it changes" in result.err
    assert "hint: it was trained for another model" in result.err
