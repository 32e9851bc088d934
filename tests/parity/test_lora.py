"""LoRAs as diffusers applies them: with weights merged by hand into its model, and with PEFT where that is installed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from sana_cli.checkpoints.checkpoint import weight_headers
from sana_cli.checkpoints.lora_file import open_loras
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.loading.load import load_transformer

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


def save_as_peft(model: Any, folder: Path) -> Path:
    """`adapter_model.safetensors`, names with `base_model.model.`, and settings in a file beside it."""
    model.save_pretrained(folder)
    return folder / "adapter_model.safetensors"


def save_as_diffusers(model: Any, folder: Path) -> Path:
    """Names with `transformer.`, and settings in the metadata."""
    from diffusers import SanaPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from peft import get_peft_model_state_dict

    layers = get_peft_model_state_dict(model)
    SanaPipeline.save_lora_weights(
        folder, {name.removeprefix("base_model.model."): tensor for name, tensor in layers.items()},
        **_collate_lora_metadata({"transformer": model}),
    )  # fmt: skip
    return folder / "pytorch_lora_weights.safetensors"


def save_as_kohya(model: Any, folder: Path) -> Path:
    """Names and alphas as PEFT's own example converts them, `convert_peft_sd_lora_to_kohya_ss.py`."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    tensors = {}
    for name, tensor in get_peft_model_state_dict(model).items():
        layer, half = name.removeprefix("base_model.model.").split(".lora_")
        key = f"lora_unet_{layer.replace('.', '_')}"
        tensors[f"{key}.lora_{'down' if half.startswith('A') else 'up'}.weight"] = tensor
        alpha = model.get_submodule(f"base_model.model.{layer}").lora_alpha["default"]
        tensors[f"{key}.alpha"] = torch.tensor(float(alpha))
    save_file(tensors, folder / "kohya.safetensors")
    return folder / "kohya.safetensors"


@pytest.mark.parametrize("save", [save_as_peft, save_as_diffusers, save_as_kohya])
def test_weights_that_peft_merges(
    pipelines: Any, lora_files: Any, tmp_path: Path, save: Callable[[Any, Path], Path]
) -> None:
    """With ranks and alphas that differ from layer to layer. Needs the extra `peft`."""
    peft = pytest.importorskip("peft", reason="pip install -e '.[peft]'")
    layers = sorted({*lora_files.LAYERS, "proj_out", "patch_embed.proj"} - {"ff.conv_depth"})
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=layers, init_lora_weights=False,
        rank_pattern={"attn2.to_q": 2, r"transformer_blocks\.1\.ff\.conv_point": 3},
        alpha_pattern={r"^transformer_blocks\.0\.attn1\.to_k": 12, "attn1.to_k": 1, "to_out.0": 3},
    )  # fmt: skip
    torch.manual_seed(3)
    model = peft.get_peft_model(deepcopy(pipelines.pipeline("plain").transformer), config)
    path = save(model, tmp_path)
    checkpoint = open_checkpoint(str(pipelines.folder("plain")))
    changed = replace(checkpoint, loras=open_loras([(path, 1.0)]))
    cpu = torch.device("cpu")
    ours = load_transformer(changed, dtype="fp32", device=cpu).state_dict()
    before = load_transformer(checkpoint, dtype="fp32", device=cpu).state_dict()
    theirs = model.merge_and_unload().state_dict()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-5)
        is_meant = any(name.removesuffix(".weight").endswith(layer) for layer in layers)
        assert torch.equal(ours[name], before[name]) != (is_meant and name.endswith(".weight"))
