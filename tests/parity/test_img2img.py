"""Drawing on a picture, seed for seed as diffusers does it: Sprint's own pipeline, and its parts for flow models.

diffusers has no picture-to-picture for plain Sana; there its schedulers' own start part-way and noising are followed.
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import SanaSprintImg2ImgPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

SIZE = (128, 96)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Something with structure, in 128x96."""
    generator = np.random.default_rng(5)
    coarse = Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    coarse.resize(SIZE, Image.Resampling.BICUBIC).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def assert_same(ours: Any, theirs: Any) -> None:
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 2
    assert difference.mean() <= 0.2


@pytest.mark.parametrize(("steps", "strength"), [(2, 0.5), (2, 1.0), (4, 0.6), (4, 0.25), (1, 0.5)])
def test_sprint(
    pipelines: Any, reference: ModuleType, sana_draw: Callable[..., Any], photo: Path, steps: int,
    strength: float,
) -> None:  # fmt: skip
    pipeline = SanaSprintImg2ImgPipeline(**pipelines.pipeline("sprint").components)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        reference.PROMPT, image=Image.open(photo), strength=strength, width=SIZE[0], height=SIZE[1],
        num_inference_steps=steps, intermediate_timesteps=1.3 if steps == 2 else None,
        generator=torch.Generator("cpu").manual_seed(7), use_resolution_binning=False, output_type="np",
    ).images[0]  # fmt: skip
    pipeline.scheduler.set_begin_index(0)  # shared with the other tests' pipeline
    (ours,) = sana_draw(
        pipelines.folder("sprint"), reference.PROMPT, "--image", photo, "--strength", strength,
        "--steps", steps, "--seed", 7,
    )  # fmt: skip
    assert_same(ours, np.round(theirs * 255).astype(np.uint8))


@torch.no_grad()
def redraw(
    pipeline: Any, prompt: str, photo: Path, *, steps: int, strength: float, instruction: list[str]
) -> Any:
    """diffusers' parts in the order of its flow-matching picture-to-picture pipelines."""
    scheduler, vae, transformer = (
        pipeline.scheduler.from_config(pipeline.scheduler.config),
        pipeline.vae,
        pipeline.transformer,
    )
    scheduler.set_timesteps(steps)
    first = steps - min(int(steps * strength), steps)
    timesteps = scheduler.timesteps[first:]
    scheduler.set_begin_index(first)
    image = VaeImageProcessor(vae_scale_factor=32).preprocess(Image.open(photo))
    data = vae.encode(image).latent * vae.config.scaling_factor
    noise = torch.randn(data.shape, generator=torch.Generator("cpu").manual_seed(7))
    add_noise = getattr(scheduler, "scale_noise", None)
    if add_noise is not None:
        latents = add_noise(data, timesteps[:1], noise)
    else:
        latents = scheduler.add_noise(data, noise, timesteps[:1])
    embeds, mask, negative, negative_mask = pipeline.encode_prompt(
        prompt, complex_human_instruction=instruction
    )
    for t in timesteps:
        velocity = transformer(
            torch.cat([latents] * 2), encoder_hidden_states=torch.cat([negative, embeds]),
            encoder_attention_mask=torch.cat([negative_mask, mask]), timestep=t.expand(2),
        ).sample  # fmt: skip
        without, with_text = velocity.chunk(2)
        velocity = without + 4.5 * (with_text - without)
        latents = scheduler.step(velocity, t, latents).prev_sample
    picture = vae.decode(latents / vae.config.scaling_factor).sample[0].permute(1, 2, 0)
    return ((picture / 2 + 0.5).clamp(0, 1) * 255).round().numpy().astype(np.uint8)


@pytest.mark.parametrize("strength", [0.25, 0.6, 0.9])
@pytest.mark.parametrize("name", ["plain", "flow_euler"])
def test_flow(
    pipelines: Any, reference: ModuleType, sana_draw: Callable[..., Any], photo: Path, name: str,
    strength: float,
) -> None:  # fmt: skip
    theirs = redraw(
        pipelines.pipeline(name), reference.PROMPT, photo, steps=8, strength=strength,
        instruction=reference.INSTRUCTION,
    )  # fmt: skip
    (ours,) = sana_draw(
        pipelines.folder(name), reference.PROMPT, "--image", photo, "--strength", strength,
        "--steps", 8, "--seed", 7, "--guidance", 4.5,
    )  # fmt: skip
    assert_same(ours, theirs)
