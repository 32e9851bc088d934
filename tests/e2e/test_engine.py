"""Pictures drawn by the engine. Without a CUDA device no kernel of it runs: what is proved is that it draws the same,
and that every part of it that cannot run is replaced and told.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sana_cli.accelerate.cuda.kernels import OF_DECODER, OF_TRANSFORMER

FAST = ("--size", "64x96", "--steps", "2", "--seed", "3")


@pytest.fixture
def on_the_engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, transformers and decoders are given theirs on the CPU too."""
    return lambda: monkeypatch.setattr("sana_cli.loading.load.has_engine", lambda device: True)


@pytest.mark.parametrize("name", ["plain", "qk_norm", "sprint"])
def test_the_same_picture(
    sana_draw: Callable[..., list[Any]], pipelines: Any, on_the_engine: Any, name: str
) -> None:
    (plain,) = sana_draw(pipelines.folder(name), "a red fox", *FAST)
    on_the_engine()
    pictures = sana_draw(pipelines.folder(name), "a red fox", *FAST, "--count", "2")
    assert np.abs(plain.astype(int) - pictures[0].astype(int)).max() <= 1
    assert (pictures[0] != pictures[1]).any()


def test_the_same_quantized_picture(
    sana: Callable[..., Any],
    sana_draw: Callable[..., list[Any]],
    tiny_model: Path,
    on_the_engine: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backends = []

    def leave(model: object, device: object, *, backend: str, **options: object) -> dict[str, str]:
        """Layers keep their integers and their definition: a CPU's kernels would take them from the engine."""
        backends.append(backend)
        return {}

    monkeypatch.setattr("sana_cli.loading.load.accelerate_", leave)
    folder = tmp_path / "w8a8"
    result = sana("quantize", tiny_model, folder, "--recipe", "w8a8", "--samples", "0")
    assert result.code == 0, result.err
    (plain,) = sana_draw(folder, "a red fox", *FAST)
    on_the_engine()
    (picture,) = sana_draw(folder, "a red fox", *FAST)
    # An fp32 rounding may move a value across .5 on its way to an integer.
    assert np.abs(plain.astype(int) - picture.astype(int)).max() <= 3
    # Text encoder, transformer, decoder; then no text encoder: the prompt is in the cache. No library packs what
    # the engine multiplies itself.
    assert backends == ["auto", "auto", "auto", "native", "auto"]


def test_what_cannot_run_is_told(
    sana: Callable[..., Any], tiny_model: Path, on_the_engine: Any, tmp_path: Path
) -> None:
    on_the_engine()
    command = (
        "generate", "a red fox", "-m", tiny_model, *FAST, "--device", "cpu", "--precision", "fp32",
        "--json", "-o",
    )  # fmt: skip
    result = sana(*command, tmp_path / "a.png")
    assert result.code == 0, result.err
    kernels = {"transformer": "native engine", "decoder": "native fused"}
    assert result.document["kernels"] == kernels
    for name in (*OF_TRANSFORMER, *OF_DECODER):
        assert f"the kernel {name} fails (these kernels run on a CUDA device" in result.err
    assert "no CUDA graph (" in result.err
    result = sana(*command, tmp_path / "b.png", "--backend", "reference")
    assert result.code == 0, result.err
    assert "kernel" not in result.err
    assert result.document["kernels"] == {}


def test_a_device_that_stops_is_told(
    gpu: Any, sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    """After an illegal access every later call of the process fails: no verdict, no traceback, and a way on."""
    import torch

    def stops(name: str) -> None:
        if name == "layer_norm_modulate":  # the first kernel that is tried
            raise torch.AcceleratorError(
                "CUDA error: an illegal memory access was encountered\nmore"
            )

    gpu.fails = stops
    words = ("-m", tiny_model, "-o", tmp_path / "a.png", *FAST, "--device", "cuda")
    result = sana("generate", "a cat", *words)
    assert result.code == 3
    assert "an illegal memory access" in result.err
    assert "--backend reference" in result.err
    assert "more" not in result.err
