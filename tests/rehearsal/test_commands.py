"""`sana` on the simulated device, from the command line to the picture: the same picture as on the CPU, and what it costs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.rehearsal.device import Device

FAST = (
    "--size",
    "64x64",
    "--steps",
    "3",
    "--seed",
    "3",
    "--precision",
    "fp32",
    "--no-prompt-cache",
)


def draw(sana: Any, path: Path, *options: object) -> tuple[np.ndarray, dict[str, Any]]:
    result = sana(
        "generate", "a red fox", "-m", "builtin", "-o", path, "--force", "--json", *FAST, *options
    )
    assert result.code == 0, result.err
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int), result.document


OPTIONS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "a negative prompt": ("--negative-prompt", "blurry dark water"),
    "one branch": ("--guidance-scale", "1"),
    "guidance in some steps": ("--guidance-interval", "0-0.6"),
    "caches": ("--cache", "0.1"),
    "branches apart": ("--plan", "branches"),
    "streamed": ("--plan", "streamed"),
    "tiles": ("--decode", "exact-tiles", "--tile", "32"),
    "without the engine": ("--backend", "reference"),
}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=() if name == "plain" else pytest.mark.slow)
        for name, options in OPTIONS.items()
    ],
)
def test_the_same_picture(
    gpu: Device, sana: Callable[..., Any], tmp_path: Path, options: tuple[str, ...]
) -> None:
    here, document = draw(sana, tmp_path / "gpu.png", "--device", "cuda", *options)
    assert document["device"].startswith("cuda")
    assert gpu.streams.races == []
    assert gpu.capturing is None
    assert torch.cuda.current_stream() is gpu.streams.default
    there, _ = draw(sana, tmp_path / "cpu.png", "--device", "cpu", *options)
    assert np.abs(here - there).max() <= 1


def test_the_doctor_finds_nothing_wrong(
    gpu: Device, examined: Callable[..., Any], program: Callable[..., None]
) -> None:
    """What has no kernel of ours by design is no problem, and a first run is not a slow one."""
    from quant.backends.measurement import Probe
    from sana_cli import doctor

    program("nvidia-smi", "echo 550.54")
    probe = Probe(out_features=128, rows=64, side=8)
    result = examined("gpu", json=True, kernels=lambda: doctor._kernels(probe))
    assert [f for f in result.document["findings"] if f["state"] == "problem"] == []
    assert result.code == 0
    assert any("linear w8a8 on cuda: " in f["text"] for f in result.document["findings"])


@pytest.mark.parametrize("gpu", [{"capability": (7, 5)}], indirect=True)
def test_turing_draws_without_the_engine_and_without_bf16(
    gpu: Device, sana: Callable[..., Any], tmp_path: Path
) -> None:
    used: set[torch.dtype] = set()
    operate = gpu._operate

    def watched(name: str, func: Any, args: Any, kwargs: Any, ours: list[torch.Tensor]) -> Any:
        used.update(tensor.dtype for tensor in ours)
        return operate(name, func, args, kwargs, ours)

    gpu._operate = watched  # type: ignore[method-assign]
    path = tmp_path / "a.png"
    result = sana(
        "generate",
        "a red fox",
        "-m",
        "builtin",
        "-o",
        path,
        "--device",
        "cuda",
        *FAST[:4],
        "--json",
    )
    assert result.code == 0, result.err
    assert path.is_file()
    assert torch.bfloat16 not in used
    assert gpu.counts["launches"] == gpu.counts["captures"] == 0
