"""On a CUDA device: the same seed is the same picture as on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", ["plain", "qk_norm", "sprint"])
def test_cuda_draws_what_the_cpu_draws(
    sana_draw: Callable[..., list[Any]], pipelines: Any, name: str
) -> None:
    folder = pipelines.folder(name)
    options = ("--size", "128x96", "--seed", "7")
    (cpu,) = sana_draw(folder, "a red fox", *options)
    (cuda,) = sana_draw(folder, "a red fox", *options, "--device", "cuda")
    difference = np.abs(cpu.astype(int) - cuda.astype(int))
    assert difference.max() <= 2
    assert difference.mean() <= 0.2


def test_half_precision_stays_close(
    sana: Callable[..., Any], pipelines: Any, tmp_path: Path
) -> None:
    from PIL import Image

    folder = pipelines.folder("plain", "bf16")
    pictures = []
    for precision in ("fp32", "auto"):
        path = tmp_path / f"{precision}.png"
        result = sana(
            "generate", "a red fox", "-m", folder, "-o", path, "--size", "128x96", "--seed", 7,
            "--steps", 4, "--device", "cuda", "--precision", precision, "--json",
        )  # fmt: skip
        assert result.code == 0, result.err
        pictures.append(np.asarray(Image.open(path)).astype(int))
    assert result.document["precision"] == "bf16"
    assert np.abs(pictures[0] - pictures[1]).mean() <= 8


@pytest.mark.parametrize("name", ["plain", "qk_norm", "sprint"])
def test_the_engine_changes_nothing_visible(
    sana: Callable[..., Any], pipelines: Any, tmp_path: Path, name: str
) -> None:
    from PIL import Image

    folder = pipelines.folder(name)
    pictures = []
    for backend in ("auto", "reference"):
        path = tmp_path / f"{backend}.png"
        result = sana(
            "generate", "a red fox", "-m", folder, "-o", path, "--size", "128x96", "--seed", 7,
            "--device", "cuda", "--precision", "fp32", "--backend", backend, "--json",
        )  # fmt: skip
        assert result.code == 0, result.err
        pictures.append(np.asarray(Image.open(path)).astype(int))
        if backend == "auto":
            kernels = result.document["kernels"]
            assert "CUDA graph captured" in kernels["transformer"], result.err
            assert kernels["decoder"] == "native fused", result.err
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
