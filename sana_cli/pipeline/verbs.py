"""The verbs that make a picture: encode_prompt -> init_noise -> denoise -> decode; encode_image to begin with one.

Each is told its modules and settings and returns tensors; `run.py` decides what is loaded when.
"""

# B batch, C latent channels, h w latent grid, L text tokens

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sana_cli.decoding.blended_tiles import decode_blended
from sana_cli.decoding.exact_tiles import decode_exact
from sana_cli.memory.plans import WHOLE, DecodePlan
from sana_cli.models.block_cache import FirstBlockCache
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext
from sana_cli.models.text_encoder import EncodedPrompt, PromptEncoder
from sana_cli.request.params import Settings
from sana_cli.schedulers import Sampler
from sana_cli.system.allocator import keeping_freed


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """The conditional and, when guidance has two branches, the unconditional text."""

    positive: EncodedPrompt
    negative: EncodedPrompt | None

    @property
    def branches(self) -> list[Tensor]:
        """Embeddings (1, L, C) in the order in which `denoise` batches them."""
        pair = (self.negative, self.positive)
        return [prompt.embeds for prompt in pair if prompt is not None]


@dataclass(frozen=True, slots=True)
class Start:
    """Picture to start from instead of noise."""

    latents: Tensor  # of the original, (1, C, h, w) fp32, as the sampler would finish them
    first: int  # step
    redrawn: Tensor | None = None  # (1, 1, h, w) bool; other positions are kept


class BrokenValues(Exception):
    """NaN, Inf or a flat result where a picture should be."""


def check_values(tensor: Tensor, stage: str, *, flat_below: float = 0.0) -> None:
    """Raise BrokenValues for NaN, Inf, or a spread not above `flat_below`."""
    if not tensor.isfinite().all():
        raise BrokenValues(f"NaN or infinite values after {stage}")
    if tensor.numel() > 1 and float(tensor.float().std()) <= flat_below:
        raise BrokenValues(f"flat values after {stage}")


def encode_prompt(
    encoder: PromptEncoder, settings: Settings, *, negative: EncodedPrompt | None = None
) -> EncodedPair:
    """Both texts of a run; the second only if guidance needs it and it is not given."""
    positive = encoder.encode(settings.prompt, enhance=settings.enhance)
    if settings.uses_two_branches and negative is None:
        negative = encoder.encode_negative(
            settings.negative_prompt, beside_enhanced=settings.enhance
        )
    return EncodedPair(positive, negative if settings.uses_two_branches else None)


def init_noise(seed: int, channels: int, settings: Settings) -> tuple[Tensor, Callable[[], Tensor]]:
    """Unit noise (1, C, h, w) fp32, and a function for more of it.

    Always from a CPU generator, so that a seed is the same picture on every device.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (1, channels, settings.drawn_height // 32, settings.drawn_width // 32)

    def draw() -> Tensor:
        return torch.randn(shape, generator=generator)

    return draw(), draw


# Latents (1, C, h, w) and a timestep -> (1, C, h, w) fp32.
Velocity = Callable[[Tensor, float], Tensor]


def guided_velocity(
    transformer: SanaTransformer2D,
    contexts: list[TextContext],
    x: Tensor,
    timestep: float,
    *,
    guidance_scale: float,
    branches_apart: bool = False,
    caches: Sequence[FirstBlockCache] = (),
) -> Tensor:
    """One step's velocity (B, C, h, w) fp32 at latents x, after guidance.

    Two contexts, of B texts each, are the unconditional and the conditional branch; `branches_apart` computes one
    after the other. `caches`: none, or one a context.
    """
    dtype, config = transformer.proj_out.weight.dtype, transformer.config
    embedded = guidance_scale * config.guidance_embeds_scale if config.guidance_embeds else None
    velocities = []
    at_once = 1 if branches_apart else len(contexts)
    for group in (slice(i, i + at_once) for i in range(0, len(contexts), at_once)):
        batch = x.repeat(at_once, 1, 1, 1).to(dtype)
        scaled = timestep * config.timestep_scale
        velocity = transformer.velocity(batch, scaled, contexts[group], embedded, caches[group])
        velocities.append(velocity.float())
    velocity = torch.cat(velocities)
    if len(contexts) == 1:
        return velocity
    unconditional, conditional = velocity.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


@torch.inference_mode()
def denoise(
    velocity_at: Velocity,
    noise: Tensor,
    sampler: Sampler,
    *,
    begin: Start | None = None,
    after_step: Callable[[int, Tensor], None] = lambda i, latents: None,
    preview: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """The denoising loop: unit noise (B, C, h, w) fp32 -> finished latents, same shape and dtype.

    `begin` runs the last steps only, on a picture with that much noise; positions that it keeps are put back after
    every step, with as much noise as the others have then (as in diffusers' legacy inpainting; RePaint, arXiv
    2201.09865, without its resampling). `after_step` sees the latents of every step and may raise to stop.
    `preview` sees every step's estimate of the finished latents.
    """
    first = begin.first if begin else 0
    latents = (
        sampler.noised(begin.latents, noise, first) if begin and first else sampler.start(noise)
    )
    with keeping_freed():
        for i in range(first, sampler.steps):
            velocity = velocity_at(*sampler.inputs(i, latents))
            check_values(velocity, f"denoising step {i + 1}")
            if preview is not None:
                preview(i, sampler.estimate(i, latents, velocity))
            latents = sampler.step(i, latents, velocity)
            if begin and begin.redrawn is not None:
                kept = sampler.noised(begin.latents, noise, i + 1)
                latents = torch.where(begin.redrawn, latents, kept)
            after_step(i, latents)
    return latents


@torch.inference_mode()
def encode_image(vae: AutoencoderDC, image: Tensor) -> Tensor:
    """A picture (1, 3, H, W) fp32 in -1..1 -> its latents (1, C, H/32, W/32) fp32, as a sampler would finish them."""
    dtype = vae.encoder.conv_out.weight.dtype
    latents = vae.encode(image.to(dtype)).float() * vae.config.scaling_factor
    # One colour all over is a picture, too.
    check_values(latents, "encoding the picture", flat_below=-1)
    return latents


@torch.inference_mode()
def decode(
    vae: AutoencoderDC,
    latents: Tensor,
    *,
    plan: DecodePlan = WHOLE,
    advance: Callable[[], None] = lambda: None,
) -> Tensor:
    """Finished latents (B, C, h, w) -> (B, 3, 32h, 32w), nominally -1..1. `advance` is called after each tile."""
    dtype = vae.decoder.conv_in.weight.dtype
    unscaled = latents.to(dtype) / vae.config.scaling_factor
    if plan.mode == "exact-tiles":
        decoded = decode_exact(
            vae.decoder, unscaled, tile=plan.tile, strip=plan.strip, advance=advance
        )
    elif plan.mode == "blended-tiles":
        decoded = decode_blended(vae.decoder, unscaled, tile=plan.tile, advance=advance)
    else:
        decoded = vae.decode(unscaled)
    # Less than half a grey level over the whole picture: nothing that a prompt asks for.
    check_values(decoded, "decoding", flat_below=1 / 255)
    return decoded
