"""Draw many captions at once with the samplers of `sana_cli`, which its pipeline uses for one picture at a time.

The noise of a picture depends on its own seed alone, so a batch draws what the command line draws one by one.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sana_cli.models.controlnet import ActiveControl, SanaControlNet
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext
from sana_cli.schedulers import FlowEuler, SchedulerName, make_scheduler
from training.text import text_states, tokenize

# B batch, C latent channels, h w latent grid


@torch.inference_mode()
def sample_latents(
    transformer: SanaTransformer2D,
    text_encoder: nn.Module,
    tokenizer: object,
    captions: list[str],
    *,
    seeds: list[int],
    steps: int,
    guidance: float,
    shift: float,
    scheduler: SchedulerName = "flow-dpm",
    sigmas: Sequence[float] = (),
    net: SanaControlNet | None = None,
    drawings: Tensor | None = None,
) -> Tensor:
    """Unit-variance latents (B, C, h, w) fp32; with a ControlNet after the latents of `drawings`, of the same shape.

    `sigmas`, noise levels from high to 0, are those of a Flow-Euler in place of `scheduler`'s own.
    """
    device = next(transformer.parameters()).device
    config = transformer.config
    shape = (config.in_channels, config.sample_size, config.sample_size)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw_noise() -> Tensor:
        return torch.cat([torch.randn((1, *shape), generator=g) for g in generators]).to(device)

    noise = draw_noise()
    ids, mask = tokenize(tokenizer, captions, device)

    def encoded(states: Tensor, mask: Tensor | None = None) -> TextContext:
        own = None if net is None else net.encode_text(states, mask)
        return replace(transformer.encode_text(states, mask), control=own)

    contexts, embedded = [encoded(text_states(text_encoder, ids, mask), mask)], None
    if config.guidance_embeds:
        embedded = torch.full((1,), guidance * config.guidance_embeds_scale, device=device)
    elif guidance > 1:
        empty_ids, _ = tokenize(tokenizer, [""], device)
        empty = text_states(text_encoder, empty_ids).expand(len(captions), -1, -1)
        contexts = [encoded(empty), *contexts]
    control = None
    if net is not None and drawings is not None:
        tokens = torch.cat([net.encode_control(drawings)] * len(contexts))
        control = ActiveControl(net=net, tokens=tokens, scale=1.0, order=net.config.order)
    sampler = (
        FlowEuler(list(sigmas))
        if sigmas
        else make_scheduler(scheduler, steps, shift=shift, draw_noise=draw_noise)
    )
    latents = sampler.start(noise)
    for i in range(sampler.steps):
        x, timestep = sampler.inputs(i, latents)
        rows = torch.cat([x] * len(contexts))
        at = torch.full((len(rows),), timestep * config.timestep_scale, device=device)
        velocity = transformer(rows, at, contexts, embedded, control=control).float()
        if len(contexts) > 1:
            unconditional, conditional = velocity.chunk(2)
            velocity = unconditional + guidance * (conditional - unconditional)
        latents = sampler.step(i, latents, velocity)
    return latents
