"""`--pag` against diffusers' SanaPAGPipeline where that is right, and a reference with q and k norms where it leaves them out."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import SanaPAGPipeline
from diffusers.models.attention_processor import (
    PAGCFGSanaLinearAttnProcessor2_0,
    PAGIdentitySanaLinearAttnProcessor2_0,
    SanaLinearAttnProcessor2_0,
)

PROMPT = "a red fox"


class _Right:
    """The attention of all rows as diffusers computes it without PAG, and `to_out(to_v(x))` of the last `1 / parts`."""

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def __call__(self, attn: Any, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        rows = len(hidden_states) // self.parts
        usual, perturbed = hidden_states[:-rows], hidden_states[-rows:]
        attended = SanaLinearAttnProcessor2_0()(attn, usual)
        return torch.cat([attended, attn.to_out[1](attn.to_out[0](attn.to_v(perturbed)))])


def theirs(pipeline: Any, layer: int, processors: tuple[Any, Any], **settings: Any) -> Any:
    parts = ("tokenizer", "text_encoder", "vae", "transformer", "scheduler")
    pag = SanaPAGPipeline(
        **{part: getattr(pipeline, part) for part in parts},
        pag_applied_layers=f"transformer_blocks.{layer}",
    )
    pag.set_pag_applied_layers(f"transformer_blocks.{layer}", pag_attn_processors=processors)
    pag.set_progress_bar_config(disable=True)
    image = pag(
        prompt=PROMPT, negative_prompt="", width=128, height=96, num_inference_steps=3, pag_scale=2.5,
        generator=torch.Generator("cpu").manual_seed(7), use_resolution_binning=False, output_type="np", **settings,
    ).images[0]  # fmt: skip
    return np.round(image * 255).astype(np.uint8)


@pytest.mark.parametrize("guidance", [4.5, 1.0])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", ["plain", "qk_norm", "flow_euler"])
def test_pag(
    pipelines: Any,
    reference: ModuleType,
    sana_draw: Callable[..., Any],
    name: str,
    layer: int,
    guidance: float,
) -> None:
    processors: tuple[Any, Any] = (_Right(3), _Right(2))
    if name != "qk_norm":
        processors = PAGCFGSanaLinearAttnProcessor2_0(), PAGIdentitySanaLinearAttnProcessor2_0()
    expected = theirs(pipelines.pipeline(name), layer, processors, guidance_scale=guidance)
    options = ("--size", "128x96", "--steps", 3, "--guidance", guidance, "--seed", 7)
    (ours,) = sana_draw(pipelines.folder(name), PROMPT, *options, "--pag", f"2.5:{layer}")
    (without,) = sana_draw(pipelines.folder(name), PROMPT, *options)
    difference = np.abs(ours.astype(int) - expected.astype(int))
    assert difference.max() <= 2
    assert difference.mean() <= 0.2
    assert np.abs(ours.astype(int) - without.astype(int)).mean() > 1, "it changes the picture"


@pytest.mark.parametrize("plan", ["stages", "branches", "streamed"])
def test_every_plan_draws_it(
    pipelines: Any, sana: Callable[..., Any], tmp_path: Path, plan: str
) -> None:
    from PIL import Image

    pictures = []
    for name in ("resident", plan):
        path = tmp_path / f"{name}.png"
        options = ("--size", "64x96", "--steps", 2, "--seed", 1, "--device", "cpu", "--pag", "3:1")
        result = sana(
            "generate",
            "a cat",
            "-m",
            pipelines.folder("plain"),
            *options,
            "--plan",
            name,
            "-o",
            path,
        )
        assert result.code == 0, result.err
        pictures.append(np.asarray(Image.open(path)).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
