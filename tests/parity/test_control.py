"""Drawing after a control picture, seed for seed as diffusers' `SanaControlNetPipeline` does it."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

SIZE = (128, 96)
SAME = [
    pytest.param((), id="plain"),
    pytest.param(("--plan", "branches"), id="branches apart"),
    pytest.param(("--plan", "streamed"), id="streamed"),
    pytest.param(("--cache", "0.00001"), id="cache"),
]


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """White lines on black, in 128x96."""
    lines = np.zeros((SIZE[1], SIZE[0], 3), dtype=np.uint8)
    lines[20:24, 10:100] = lines[20:80, 60:64] = 255
    path = tmp_path_factory.mktemp("control") / "lines.png"
    Image.fromarray(lines).save(path)
    return path


def by_diffusers(
    pipelines: Any, reference: ModuleType, drawing: Path, *, scale: float, guidance: float
) -> Any:
    image = pipelines.pipeline("controlnet")(
        reference.PROMPT, control_image=Image.open(drawing), controlnet_conditioning_scale=scale,
        width=SIZE[0], height=SIZE[1], num_inference_steps=4, guidance_scale=guidance,
        generator=torch.Generator("cpu").manual_seed(7), use_resolution_binning=False, output_type="np",
    ).images[0]  # fmt: skip
    return np.round(image * 255).astype(np.uint8)


def assert_same(ours: Any, theirs: Any) -> None:
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 2
    assert difference.mean() <= 0.2


@pytest.mark.parametrize("options", SAME)
def test_every_plan(
    pipelines: Any, reference: ModuleType, sana_draw: Callable[..., Any], drawing: Path,
    options: tuple[str, ...],
) -> None:  # fmt: skip
    folder = pipelines.folder("controlnet")
    (ours,) = sana_draw(
        folder, reference.PROMPT, "--control", drawing, "--steps", 4, "--seed", 7, *options
    )
    theirs = by_diffusers(pipelines, reference, drawing, scale=1.0, guidance=4.5)
    assert_same(ours, theirs)
    (without,) = sana_draw(
        folder, reference.PROMPT, "--size", "128x96", "--steps", 4, "--seed", 7, *options
    )
    assert np.abs(without.astype(int) - theirs.astype(int)).mean() > 5, "the lines are followed"


@pytest.mark.parametrize(("scale", "guidance"), [(0.5, 4.5), (1.0, 1.0)])
def test_scale_and_one_branch(
    pipelines: Any, reference: ModuleType, sana_draw: Callable[..., Any], drawing: Path,
    scale: float, guidance: float,
) -> None:  # fmt: skip
    (ours,) = sana_draw(
        pipelines.folder("controlnet"), reference.PROMPT, "--control", f"{drawing}:{scale}",
        "--guidance", guidance, "--steps", 4, "--seed", 7,
    )  # fmt: skip
    assert_same(ours, by_diffusers(pipelines, reference, drawing, scale=scale, guidance=guidance))


def test_order_of_training_draws_another_picture(
    pipelines: Any, reference: ModuleType, sana_draw: Callable[..., Any], drawing: Path
) -> None:
    folder = pipelines.folder("controlnet")
    words = (folder, reference.PROMPT, "--control", drawing, "--steps", 4, "--seed", 7)
    (trained,) = sana_draw(*words, "--control-order", "trained")
    (diffusers,) = sana_draw(*words)
    assert np.abs(trained.astype(int) - diffusers.astype(int)).mean() > 1
