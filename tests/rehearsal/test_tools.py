"""`sana quantize`, `decode`, `bench` and whole processes on the simulated device."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from sana_cli.errors import ExitCode
from tests.rehearsal.device import Device
from tests.rehearsal.test_commands import assert_quiet, psnr

ROOT = Path(__file__).parents[2]
FAST = (
    "--size", "64x64", "--steps", 2, "--seed", 3, "--precision", "fp32", "--no-prompt-cache",
)  # fmt: skip
pytestmark = pytest.mark.slow


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("recipe", ["w8a8", "int4"])
def test_quantizing(
    gpu: Device, sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, recipe: str
) -> None:
    """Calibrated on the device, a model has the CPU's layers and draws the same within 30 dB."""
    layers, drawn = [], []
    for device in ("cuda", "cpu"):
        folder, path = tmp_path / device, tmp_path / f"{device}.png"
        words = ("--recipe", recipe, "--vae", "w8a16", "--samples", 2, "--steps", 2, "--device", device, "--quiet")  # fmt: skip
        result = sana("quantize", tiny_model, folder, *words)
        assert result.code == 0, result.err
        if device == "cuda":
            assert_quiet(gpu)
        layers.append(
            {
                (file.parent.name, name): (value.dtype, value.shape)
                for file in folder.rglob("*.safetensors")
                for name, value in load_file(file).items()
            }
        )
        words = ("-m", folder, "-o", path, *FAST, "--device", "cpu")
        assert sana("generate", "a fox", *words).code == 0
        drawn.append(pixels(path))
    assert layers[0] == layers[1]
    assert psnr(*drawn) > 30


@pytest.mark.parametrize("options", [(), ("--tile", 32)], ids=["whole", "tiles"])
def test_decoding_later(
    gpu: Device, sana: Callable[..., Any], before_computing: Callable[..., Any], tmp_path: Path,
    options: tuple[object, ...],
) -> None:  # fmt: skip
    """Interrupted in its decoder, a picture is finished from its latents."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    path = tmp_path / "a.png"
    words = ("generate", "a fox", *FAST, "--device", "cuda")
    with before_computing("decode", interrupt):
        assert sana(*words, "-o", path).code == ExitCode.INTERRUPTED
    assert not path.exists()
    kept = tmp_path / "a.png.latents.safetensors"
    result = sana("decode", kept, "--device", "cuda", *options)
    assert result.code == 0, result.err
    assert_quiet(gpu)
    assert sana(*words[:-1], "cpu", "-o", tmp_path / "b.png").code == 0
    assert np.abs(pixels(path) - pixels(tmp_path / "b.png")).max() <= 1


def rehearsed(*words: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `sana` in a process of its own that has the device; so have those that it starts."""
    paths = os.pathsep.join([str(Path(__file__).with_name("startup")), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "sana_cli", *map(str, words)], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": paths} | environment,
    )  # fmt: skip


def test_bench(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    result = rehearsed(
        "bench", "--device", "cuda", "--size", "64x64", "--steps", 2, "--runs", 1, "--warmup", 1, "--batch", 2,
        "--scheme", "fp32,w8a8", "--json", path, "--quiet",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    document = json.loads(path.read_text())
    assert document["machine"]["gpu"] == "a simulated GPU"
    assert list(document["contenders"]) == ["sana-fp32", "sana-w8a8"]
    for contender in document["contenders"].values():
        assert {"text", "step", "denoise", "decode", "total"} <= set(contender["stages"])
        assert contender["peak_device_bytes"] > 2**20


def test_a_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Started anew it finds verdicts and prompts of the first, and draws the same file."""
    words = ("generate", "a fox", *FAST[:-1], "--device", "cuda", "-o")
    for name in ("a.png", "b.png"):
        result = rehearsed(*words, tmp_path / name, SANA_CACHE=str(tmp_path / "cache"))
        assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert list((tmp_path / "cache").iterdir())
