"""Latents become pixels, whole or in tiles, in the way that fits into memory."""

# B batch, C latent channels, h w latent grid, H W pixels

from collections.abc import Callable

import torch
from torch import Tensor

from sana_cli.checkpoints.decoder_files import OtherDecoder
from sana_cli.decoding.blended_tiles import count_tiles as count_blended
from sana_cli.decoding.blended_tiles import decode_blended
from sana_cli.decoding.exact_tiles import count_tiles, decode_exact
from sana_cli.images.tensors import resize_and_crop
from sana_cli.memory.plans import WHOLE, DecodePlan
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.tiny_decoder import TinyAutoencoder
from sana_cli.pipeline.components import Components
from sana_cli.pipeline.recovery import retrying
from sana_cli.pipeline.values import check_values


@torch.inference_mode()
def decode(
    vae: AutoencoderDC | TinyAutoencoder,
    latents: Tensor,
    *,
    plan: DecodePlan = WHOLE,
    advance: Callable[[], None] = lambda: None,
) -> Tensor:
    """Finished latents (B, C, h, w) -> (B, 3, 32h, 32w), nominally -1..1. `advance` is called after each tile.

    Raises BrokenValues.
    """
    unscaled = vae.unscale(latents.to(vae.decoder.conv_in.weight.dtype))
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


def decode_latents(
    components: Components,
    latents: Tensor,
    *,
    width: int,
    height: int,
    decoder: OtherDecoder | None = None,
) -> Tensor:
    """Latents (1, C, h, w) -> (1, 3, height, width), under smaller and smaller plans.

    `decoder`: another one than the model's own.

    Raises BrokenValues.
    """

    def once() -> Tensor:
        vae = components.vae(decoder)
        with components.stopwatch.timed("decode"):
            decoded = _by_plan(components, vae, latents)
            if decoder is None:
                components.preview.learn(latents, decoded)
            return resize_and_crop(decoded, height=height, width=width)

    return retrying(components, "decode", once)


def _by_plan(
    components: Components, vae: AutoencoderDC | TinyAutoencoder, latents: Tensor
) -> Tensor:
    plan = components.plan.decode
    height, width = (side * vae.config.downscale for side in latents.shape[-2:])
    total = None
    if plan.mode != "whole":
        count = count_tiles if plan.mode == "exact-tiles" else count_blended
        total = count(height, width, plan.tile)
    with components.reporter.stage("decode", total) as advance:
        return decode(vae, latents, plan=plan, advance=advance if total else lambda: None)
