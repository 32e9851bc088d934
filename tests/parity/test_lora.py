"""LoRAs as diffusers applies them: with weights merged by hand into its model, and with PEFT where that is installed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from sana_cli.checkpoint import open_checkpoint, weight_headers

SCALES = (0.7, -0.4)
OPTIONS = ("--size", "128x96", "--steps", 4, "--guidance", 4.5, "--seed", 7)


@pytest.fixture
def loras(lora_files: Any, pipelines: Any, tmp_path: Path) -> list[Path]:
    """Two, of all layers that PEFT adapts as we do: its LoRAs of grouped convolutions have other shapes."""
    headers = weight_headers(open_checkpoint(str(pipelines.folder("plain"))), "transformer")
    shapes = {name: shape for name, (_, shape) in headers.items()}
    layers = tuple({*lora_files.LAYERS, *lora_files.OTHERS} - {"ff.conv_depth"})
    return [
        lora_files.write_lora(
            tmp_path / f"{seed}.safetensors",
            lora_files.random_lora(shapes, layers=layers, seed=seed, rank=2 + seed),
        )
        for seed in range(len(SCALES))
    ]


def assert_same(ours: Any, theirs: Any, without: Any) -> None:
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 2
    assert difference.mean() <= 0.2
    assert np.abs(theirs.astype(int) - without).mean() > 5, "the LoRAs show"


def given(loras: list[Path]) -> list[object]:
    pairs = [("--lora", f"{path}:{scale}") for path, scale in zip(loras, SCALES, strict=True)]
    return [word for pair in pairs for word in pair]


@contextmanager
def merged(transformer: torch.nn.Module, loras: list[Path]) -> Iterator[None]:
    """Weights + scale * up @ down within the block."""
    from safetensors.torch import load_file

    kept = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    with torch.no_grad():
        for path, scale in zip(loras, SCALES, strict=True):
            halves = load_file(path)
            for name in (n for n in halves if n.endswith(".lora_A.weight")):
                layer = name.removeprefix("transformer.").removesuffix(".lora_A.weight")
                weight = transformer.get_submodule(layer).weight
                up = halves[name.replace("lora_A", "lora_B")].flatten(1)
                weight += scale * (up @ halves[name].flatten(1)).view(weight.shape)
    try:
        yield
    finally:
        transformer.load_state_dict(kept)


def test_merged_by_hand(
    pipelines: Any, reference: ModuleType, sana_draw: Callable[..., Any], loras: list[Path]
) -> None:
    pipeline = pipelines.pipeline("plain")
    with merged(pipeline.transformer, loras):
        theirs = reference.draw(pipeline, steps=4)
    (ours,) = sana_draw(pipelines.folder("plain"), reference.PROMPT, *OPTIONS, *given(loras))
    assert_same(ours, theirs, pipelines.draw("plain", steps=4))


def test_peft(
    pipelines: Any, reference: ModuleType, sana_draw: Callable[..., Any], loras: list[Path]
) -> None:
    """`load_lora_weights` and `set_adapters`. Needs the extra `peft`."""
    pytest.importorskip("peft", reason="pip install -e '.[peft]'")
    pipeline = pipelines.pipeline("plain")
    names = [f"lora_{i}" for i in range(len(loras))]
    for path, name in zip(loras, names, strict=True):
        pipeline.load_lora_weights(path, adapter_name=name)
    pipeline.set_adapters(names, list(SCALES))
    try:
        theirs = reference.draw(pipeline, steps=4)
    finally:
        pipeline.unload_lora_weights()
    (ours,) = sana_draw(pipelines.folder("plain"), reference.PROMPT, *OPTIONS, *given(loras))
    assert_same(ours, theirs, pipelines.draw("plain", steps=4))
