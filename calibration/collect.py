"""Run the real pipeline over prompts and keep what its parts were given, to be run again layer by layer.

Kept are texts, transformer inputs of a few steps a picture, and finished latents: megabytes. Activations, which
are gigabytes, are made again whenever a group of layers is observed.
"""

# B batch (guidance branches), C latent channels, h w latent grid

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from calibration.observe import Call
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext
from sana_cli.models.text_encoder import PromptEncoder
from sana_cli.pipeline.denoise import denoise, init_noise
from sana_cli.pipeline.guidance import guided_velocity
from sana_cli.pipeline.text import EncodedPair, encode_prompt
from sana_cli.request.params import GenerationParams, resolve
from sana_cli.schedulers import make_scheduler

BUCKETS = 4  # of timesteps; every picture gives one step to each


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A picture to draw: resolved settings and a seed."""

    settings: GenerationParams
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInput:
    """The transformer's inputs at one step of one picture."""

    drawing: int
    bucket: int
    latents: Tensor  # (B, C, h, w)
    timestep: Tensor  # (B,)
    guidance: Tensor | None


def plan_drawings(
    checkpoint: Checkpoint, prompts: Sequence[str], *, first_seed: int, steps: int | None
) -> list[Drawing]:
    """Pictures at the model's own settings, one a prompt, seeds counted up."""
    return [
        Drawing(
            settings=resolve(GenerationOptions(prompt=prompt, steps=steps), checkpoint),
            seed=first_seed + i,
        )
        for i, prompt in enumerate(prompts)
    ]


def encode_texts(
    encoder: PromptEncoder,
    drawings: Sequence[Drawing],
    *,
    advance: Callable[[], None] = lambda: None,
) -> list[EncodedPair]:
    texts = []
    for drawing in drawings:
        texts.append(encode_prompt(encoder, drawing.settings))
        advance()
    return texts


def make_contexts(transformer: SanaTransformer2D, text: EncodedPair) -> list[TextContext]:
    """The guidance branches of a text, in the transformer's type and on its device."""
    weight = transformer.proj_out.weight
    return [transformer.encode_text(embeds.to(weight)) for embeds in text.branches]


def draw_latents(
    transformer: SanaTransformer2D,
    text: EncodedPair,
    drawing: Drawing,
    *,
    after_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Finished latents (1, C, h, w) fp32, as `sana generate` makes them."""
    settings, device = drawing.settings, transformer.proj_out.weight.device
    noise, draw = init_noise(drawing.seed, transformer.config.in_channels, settings)
    sampler = make_scheduler(
        settings.scheduler,
        settings.steps,
        shift=settings.flow_shift,
        draw_noise=lambda: draw().to(device),
    )
    with torch.inference_mode():
        contexts = make_contexts(transformer, text)
    return denoise(
        partial(guided_velocity, transformer, contexts, guidance_scale=settings.guidance_scale),
        noise.to(device),
        sampler,
        after_step=lambda i, latents: after_step(),
    )


def record_steps(
    transformer: SanaTransformer2D,
    texts: Sequence[EncodedPair],
    drawings: Sequence[Drawing],
    *,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> tuple[list[StepInput], list[Tensor]]:
    """Draw everything; returns inputs of the sampled steps, and the finished latents."""
    rng = random.Random(seed)
    inputs: list[StepInput] = []
    latents = []
    for number, (text, drawing) in enumerate(zip(texts, drawings, strict=True)):
        given: list[tuple[Any, ...]] = []  # of every step; a picture's latents are small
        handle = transformer.register_forward_pre_hook(lambda _, args, to=given: to.append(args))
        try:
            latents.append(draw_latents(transformer, text, drawing, after_step=advance))
        finally:
            handle.remove()
        for step, bucket in stratified_steps(drawing.settings.steps, rng).items():
            batch, timestep, _, guidance = given[step]
            inputs.append(
                StepInput(
                    drawing=number,
                    bucket=bucket,
                    latents=batch,
                    timestep=timestep,
                    guidance=guidance,
                )
            )
    return inputs, latents


def stratified_steps(steps: int, rng: random.Random) -> dict[int, int]:
    """Step -> bucket: one random step out of each of BUCKETS equal parts of a picture's steps."""
    count = min(BUCKETS, steps)
    edges = [steps * bucket // count for bucket in range(count + 1)]
    return {rng.randrange(edges[b], edges[b + 1]): b for b in range(count)}


def step_calls(
    transformer: SanaTransformer2D, texts: Sequence[EncodedPair], inputs: Sequence[StepInput]
) -> list[Call]:
    """Return the recorded steps as calls that return velocities (B, C, h, w).

    Texts are projected again in each call: cross-attention's output layer takes part in that.
    """

    def run(step: StepInput) -> Tensor:
        contexts = make_contexts(transformer, texts[step.drawing])
        return transformer(step.latents, step.timestep, contexts, step.guidance)

    return [Call(lambda step=step: run(step), step.bucket) for step in inputs]  # type: ignore[misc]


def text_calls(encoder: PromptEncoder, drawings: Sequence[Drawing]) -> list[Call]:
    """Encoding every prompt; the instruction's constant prefix is seen once, with the first.

    The empty negative prompt is BOS alone, which every text begins with; once a prompt it would outweigh words.
    """
    fresh = PromptEncoder(encoder.tokenizer, encoder.model)
    return [
        Call(lambda one=drawing.settings: fresh.encode(one.prompt, enhance=one.enhance))  # type: ignore[misc]
        for drawing in drawings
    ]
