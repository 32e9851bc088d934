"""`sana generate` on the simulated device, from the command line to the picture: the same picture as on the CPU, whatever is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sana_cli.checkpoints.checkpoint import weight_headers
from sana_cli.checkpoints.opening import open_checkpoint
from tests.rehearsal.device import Device

Draw = Callable[..., tuple[list[np.ndarray], dict[str, Any]]]
SIZE = ("--size", "64x64")
FAST = ("--steps", 3, "--seed", 3, "--no-prompt-cache")
FP32 = ("--precision", "fp32")


@pytest.fixture
def draw(sana: Callable[..., Any], tmp_path: Path) -> Draw:
    """Draw on a device by the command; the pictures, and the document."""

    def run(device: str, *options: object, model: object = "builtin") -> Any:
        folder = tmp_path / device
        prompt = () if "--prompts" in options else ("a red fox",)
        size = () if "--image" in options else SIZE
        words = ("generate", *prompt, "-m", model, "-o", f"{folder}/", "--force", "--json")
        result = sana(*words, *FAST, *size, *options, "--device", device)
        assert result.code == 0, result.err
        pictures = []
        for path in sorted(folder.glob("*.png")):
            with Image.open(path) as picture:
                pictures.append(np.asarray(picture.convert("RGB")).astype(int))
        assert pictures
        return pictures, result.documents[-1]

    return run


@pytest.fixture
def files(tmp_path: Path, lora_files: Any) -> dict[str, object]:
    """Files that options name: a picture, a mask, a LoRA, prompts, and where previews go."""
    colours = Image.linear_gradient("L").resize((64, 64))
    colours.convert("RGB").save(tmp_path / "image.png")
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).rectangle((8, 8, 40, 50), fill=255)
    mask.save(tmp_path / "mask.png")
    headers = weight_headers(open_checkpoint("builtin"), "transformer")
    shapes = {name: shape for name, (_, shape) in headers.items()}
    lora = lora_files.write_lora(tmp_path / "style.safetensors", lora_files.random_lora(shapes))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a fox\na red fox left of a blue house on a green hill\na cat\n")
    return {
        "IMAGE": tmp_path / "image.png", "MASK": tmp_path / "mask.png", "LORA": lora, "PROMPTS": prompts,
        "PREVIEW": tmp_path / "preview.png",
    }  # fmt: skip


NEGATIVE = ("--negative-prompt", "blurry dark water")
OPTIONS: dict[str, tuple[object, ...]] = {
    "plain": (),
    "a negative prompt": NEGATIVE,
    "one branch": ("--guidance-scale", "1"),
    "guidance in some steps": ("--guidance-interval", "0-0.6"),
    "guidance in some steps, negative": (*NEGATIVE, "--guidance-interval", "0-0.6"),
    "euler": ("--scheduler", "flow-euler"),
    "caches": ("--cache", "0.1"),
    "branches apart": ("--plan", "branches"),
    "stages": ("--plan", "stages"),
    "streamed": ("--plan", "streamed"),
    "exact tiles": ("--decode", "exact-tiles", "--tile", "32"),
    "blended tiles": ("--decode", "blended-tiles", "--tile", "64", "--size", "96x96"),
    "without the engine": ("--backend", "reference"),
    "a picture to begin with": ("--image", "IMAGE", "--strength", "0.7"),
    "a mask": ("--image", "IMAGE", "--mask", "MASK"),
    "a LoRA": ("--lora", "LORA"),
    "a LoRA, streamed": ("--lora", "LORA:0.5", "--plan", "streamed"),
    "previews": ("--preview-file", "PREVIEW", "--preview-every", "1"),
    "several seeds": ("--count", "3"),
    "a file of prompts": ("--prompts", "PROMPTS", "--count", "2"),
    "a cap": ("--max-memory", "400MiB"),
}  # fmt: skip


def given(options: tuple[object, ...], files: dict[str, object]) -> list[str]:
    """Options with the files that they name."""
    found = []
    for word in map(str, options):
        name, colon, scale = word.partition(":")
        found.append(f"{files[name]}{colon}{scale}" if name in files else word)
    return found


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """In dB."""
    return float(10 * np.log10(255**2 / max(np.square(one - other).mean(), 1e-9)))


def assert_quiet(gpu: Device) -> None:
    """The device is as before: nothing raced, nothing records, the default stream is the current one, no cap stays."""
    assert gpu.streams.races == []
    assert gpu.capturing is None
    assert torch.cuda.current_stream() is gpu.streams.default
    assert gpu.memory.fraction == 1


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=() if name == "plain" else pytest.mark.slow)
        for name, options in OPTIONS.items()
    ],
)
def test_the_same_picture(
    gpu: Device, draw: Draw, files: dict[str, object], options: tuple[object, ...]
) -> None:
    """In fp32 every value is within 1 of 255: sums in another order."""
    words = given(options, files)
    here, document = draw("cuda", *FP32, *words)
    assert document["device"].startswith("cuda")
    assert_quiet(gpu)
    if "PREVIEW" in options:
        assert Path(str(files["PREVIEW"])).is_file()
    there, _ = draw("cpu", *FP32, *words)
    assert len(here) == len(there)
    assert max(np.abs(a - b).max() for a, b in zip(here, there, strict=True)) <= 1


MODELS = ("qk_norm", "pos_embed_1", "pos_embed_2", "sprint", "flow_euler")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["none", "w8a8", "int4"])
@pytest.mark.parametrize("model", ["builtin", *MODELS])
def test_every_variant_and_scheme(
    gpu: Device, draw: Draw, pipelines: Any, quantized: Callable[..., Path], model: str, scheme: str
) -> None:
    """Quantized, a rounding of fp32 moves a few inputs to the next integer: then pictures are within 30 dB."""
    folder: object = model if model == "builtin" else pipelines.folder(model)
    if scheme != "none":
        folder = quantized(scheme, str(folder))
    options = (*FP32, *NEGATIVE, "--steps", 2)
    here, _ = draw("cuda", *options, model=folder)
    assert_quiet(gpu)
    assert gpu.counts["captures"] >= 1
    there, _ = draw("cpu", *options, model=folder)
    if scheme == "none":
        assert np.abs(here[0] - there[0]).max() <= 1
    assert psnr(here[0], there[0]) > 30


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["fp16", "bf16"])
def test_the_precision_of_a_model(gpu: Device, draw: Draw, pipelines: Any, layout: str) -> None:
    """Drawn as it was trained, a picture is near that of fp32: 30 dB and more."""
    model = pipelines.folder("plain", layout)
    here, document = draw("cuda", model=model)
    assert document["precision"] == {"fp16": "fp16+bf16", "bf16": "bf16"}[layout]
    assert_quiet(gpu)
    there, _ = draw("cpu", *FP32, model=model)
    assert psnr(here[0], there[0]) > 30


@pytest.mark.slow
@pytest.mark.parametrize("gpu", [{"capability": (7, 5)}], indirect=True)
def test_turing_draws_without_the_engine_and_without_bf16(gpu: Device, draw: Draw) -> None:
    used: set[torch.dtype] = set()
    operate = gpu._operate

    def watched(
        name: str, func: Any, args: Any, kwargs: Any, ours: list[torch.Tensor], **named: Any
    ) -> Any:
        used.update(tensor.dtype for tensor in ours)
        return operate(name, func, args, kwargs, ours, **named)

    gpu._operate = watched  # type: ignore[method-assign]
    draw("cuda", "--steps", 1)
    assert torch.bfloat16 not in used
    assert gpu.counts["launches"] == gpu.counts["captures"] == 0
