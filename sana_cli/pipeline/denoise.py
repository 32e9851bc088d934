"""Turn noise into latents: seeded noise, and the denoising loop.

Both get their tensors and functions as arguments and do not depend on what is in memory (`components.py`).
"""

# B batch, C latent channels, h w latent grid

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sana_cli.pipeline.values import begin_check
from sana_cli.request.params import GenerationParams
from sana_cli.schedulers import Sampler
from sana_cli.system.allocator import keeping_freed

# Latents (1, C, h, w) and a timestep -> (1, C, h, w) fp32.
Velocity = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True, slots=True)
class InitLatents:
    """A picture to begin with instead of noise."""

    latents: Tensor  # of the original, (1, C, h, w) fp32, as the sampler would finish them
    first: int  # step
    redrawn: Tensor | None = None  # (1, 1, h, w) bool; other positions are kept


def init_noise(
    seed: int, channels: int, params: GenerationParams
) -> tuple[Tensor, Callable[[], Tensor]]:
    """Unit noise (1, C, h, w) fp32, and a function for more of it.

    Always from a CPU generator, so that a seed is the same picture on every device.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (1, channels, params.drawn_height // 32, params.drawn_width // 32)

    def draw() -> Tensor:
        return torch.randn(shape, generator=generator)

    return draw(), draw


@torch.inference_mode()
def denoise(
    velocity_at: Velocity,
    noise: Tensor,
    sampler: Sampler,
    *,
    init: InitLatents | None = None,
    after_step: Callable[[int, Tensor], None] = lambda i, latents: None,
    preview: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """The denoising loop: unit noise (B, C, h, w) fp32 -> finished latents, same shape and dtype.

    `init` runs the last steps only, on a picture with that much noise; positions that it keeps are put back after
    every step, with as much noise as the others have then (as in diffusers' legacy inpainting; RePaint, arXiv
    2201.09865, without its resampling). `after_step` sees the latents of every step and may raise to stop.
    `preview` sees every step's estimate of the finished latents. Raises BrokenValues, on a CUDA device one step later: there
    a step is checked while the next one runs.
    """
    first = init.first if init else 0
    latents = sampler.noised(init.latents, noise, first) if init and first else sampler.start(noise)
    finish_check: Callable[[], None] | None = None  # of the step before
    with keeping_freed():
        for i in range(first, sampler.steps):
            velocity = velocity_at(*sampler.inputs(i, latents))
            if finish_check is not None:
                finish_check()
            finish_check = begin_check(velocity, f"denoising step {i + 1}")
            if preview is not None:
                preview(i, sampler.estimate(i, latents, velocity))
            latents = sampler.step(i, latents, velocity)
            if init and init.redrawn is not None:
                kept = sampler.noised(init.latents, noise, i + 1)
                latents = torch.where(init.redrawn, latents, kept)
            after_step(i, latents)
        if finish_check is not None:
            finish_check()
    return latents
