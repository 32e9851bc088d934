"""Decode latents in pieces, exactly: no seams, nothing blended.

Only attention looks at the whole picture, and only the small first stages of DC-AE have it. So these run once over
everything, and the rest in tiles: convolutions and per-pixel norms, whose reach is known. A tile reads as much of its
surroundings as its layers reach, layer by layer. When even the first stages are too large, they run in strips of
rows: linear attention adds up its sums over all strips, then applies them.

Tiles give the bits of the undivided decode wherever torch's kernels compute a value alike in maps of every size;
strips add up in another order, which rounds differently. The exception are 8-bit inputs, see `shared_scales.py`.
"""

# C latent channels, h w latent grid, H W pixels

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from sana_cli.decoding.windows import Step, in_strips, in_tiles, make_room, reach_of, step_of
from sana_cli.models.dc_ae import Decoder, EfficientViTBlock, MultiscaleLinearAttention
from sana_cli.models.tiny_decoder import TinyDecoder


@dataclass(frozen=True, slots=True)
class Stages:
    """A decoder cut after its last attention."""

    whole: list[Step | MultiscaleLinearAttention]
    tiled: list[Step]

    @property
    def downscale(self) -> int:
        """Pixels per latent position, along each axis."""
        return growth([step for step in self.whole if isinstance(step, Step)]) * growth(self.tiled)


def cut(decoder: Decoder | TinyDecoder) -> Stages:
    """The layers up to the last one that attends to the whole picture, and the rest, in order."""
    first = Step(decoder.embed, decoder.conv_in, reach_in=reach_of(decoder.conv_in))
    blocks = list(decoder.blocks())
    if isinstance(decoder, TinyDecoder):
        last = Step(
            decoder.to_pixels,
            decoder.conv_out,
            grows=decoder.config.patch_size,
            reach_in=reach_of(decoder.conv_out),
        )
        return Stages([], [first, *(step_of(block) for block in blocks), last])
    attends = [i for i, block in enumerate(blocks) if isinstance(block, EfficientViTBlock)]
    if not attends:
        tiled = [first, *(step_of(block) for block in blocks)]
        return Stages([], [*tiled, *_last_steps(decoder)])
    whole: list[Step | MultiscaleLinearAttention] = [first]
    for block in blocks[: attends[-1] + 1]:
        if isinstance(block, EfficientViTBlock):
            whole += [block.attn, step_of(block.conv_out)]
        else:
            whole.append(step_of(block))
    tiled = [step_of(block) for block in blocks[attends[-1] + 1 :]]
    return Stages(whole, [*tiled, *_last_steps(decoder)])


def _last_steps(decoder: Decoder) -> list[Step]:
    return [Step(decoder.normalize, decoder.norm_out), step_of(decoder.conv_out)]


def growth(steps: Sequence[Step]) -> int:
    """Output positions per input position of several layers, along each axis."""
    return prod(step.grows for step in steps)


def count_tiles(height: int, width: int, tile: int) -> int:
    """Tiles of `tile` x `tile` pixels in a picture."""
    return -(-height // tile) * -(-width // tile)


@torch.inference_mode()
def decode_exact(
    decoder: Decoder | TinyDecoder,
    latents: Tensor,
    *,
    tile: int,
    strip: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Tensor:
    """Unscaled latents (1, C, h, w) -> (1, 3, H, W), in tiles of `tile` x `tile` pixels.

    `strip`: run the first stages over this many rows of pixels at a time; None: over everything at once. `advance` is
    called after each of `count_tiles` tiles.
    """
    if len(latents) != 1 or tile < 1 or (strip is not None and strip < 1):
        raise ValueError("one picture at a time, in tiles and strips of some size")
    stages = cut(decoder)
    x = latents.contiguous(memory_format=torch.channels_last)
    pixels = stages.downscale  # per position of x
    for step in stages.whole:
        grows = step.grows if isinstance(step, Step) else 1
        pixels //= grows
        rows = x.shape[2] * grows if strip is None else max(1, strip // pixels)
        x = in_strips(step, x, rows)
        make_room(x)
    return in_tiles(stages.tiled, x, tile, advance)
