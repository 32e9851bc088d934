"""Draw many captions at once with the samplers of `sana_cli`, which its pipeline uses for one picture at a time.

The noise of a picture depends on its own seed alone, so a batch draws what the command line draws one by one.
"""

import torch
from torch import Tensor
from transformers import Gemma2Model

from sana_cli.models.sana_transformer import SanaTransformer2D
from sana_cli.schedulers import SchedulerName, make_scheduler
from training.text import tokenize

# B batch, C latent channels, h w latent grid


def noise_for_seeds(seeds: list[int], shape: tuple[int, int, int]) -> Tensor:
    """Unit normal noise (B, C, h, w) fp32 from one CPU generator a seed."""
    return torch.cat(
        [torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


@torch.inference_mode()
def sample_latents(
    transformer: SanaTransformer2D,
    text_encoder: Gemma2Model,
    tokenizer: object,
    captions: list[str],
    *,
    seeds: list[int],
    steps: int,
    guidance: float,
    shift: float,
    scheduler: SchedulerName = "flow-dpm",
) -> Tensor:
    """Unit-variance latents (B, C, h, w) fp32."""
    device = next(transformer.parameters()).device
    side = transformer.config.sample_size
    noise = noise_for_seeds(seeds, (transformer.config.in_channels, side, side)).to(device)
    ids, mask = tokenize(tokenizer, captions, device)
    context = transformer.encode_text(
        text_encoder(ids, attention_mask=mask).last_hidden_state, mask
    )
    empty_ids, _ = tokenize(tokenizer, [""], device)
    empty = text_encoder(empty_ids).last_hidden_state.expand(len(captions), -1, -1)
    contexts = [transformer.encode_text(empty), context] if guidance > 1 else [context]
    sampler = make_scheduler(
        scheduler, steps, shift=shift, draw_noise=lambda: torch.randn_like(noise)
    )
    latents = sampler.start(noise)
    for i in range(steps):
        x, timestep = sampler.inputs(i, latents)
        rows = torch.cat([x] * len(contexts))
        velocity = transformer(
            rows, torch.full((len(rows),), timestep, device=device), contexts
        ).float()
        if guidance > 1:
            unconditional, conditional = velocity.chunk(2)
            velocity = unconditional + guidance * (conditional - unconditional)
        latents = sampler.step(i, latents, velocity)
    return latents
