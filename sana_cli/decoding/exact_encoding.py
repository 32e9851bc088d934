"""Encode a picture in pieces, exactly: the decoder's tiles and strips (`exact_tiles.py`) the other way round.

Convolutions run first, in tiles of the picture, down to the first map that attention looks at as a whole: an eighth
of the resolution. The stages after it run once over everything, or in strips of rows.
"""

# C latent channels, h w latent grid, H W pixels

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sana_cli.decoding.windows import (
    Step,
    in_strips,
    in_tiles,
    make_room,
    reach_of,
    scaled,
    step_of,
)
from sana_cli.models.dc_ae import EfficientViTBlock, Encoder, MultiscaleLinearAttention


@dataclass(frozen=True, slots=True)
class EncoderStages:
    """An encoder cut before its first attention."""

    tiled: list[Step]
    whole: list[Step | MultiscaleLinearAttention]


def cut_encoder(encoder: Encoder) -> EncoderStages:
    """The layers before the first one that attends to the whole picture, and the rest, in order."""
    blocks = list(encoder.blocks())
    attends = [i for i, block in enumerate(blocks) if isinstance(block, EfficientViTBlock)]
    split = min(attends, default=len(blocks))
    tiled = [step_of(encoder.conv_in), *(step_of(block) for block in blocks[:split])]
    whole: list[Step | MultiscaleLinearAttention] = []
    for block in blocks[split:]:
        if isinstance(block, EfficientViTBlock):
            whole += [block.attn, step_of(block.conv_out)]
        else:
            whole.append(step_of(block))
    last = Step(encoder.to_latents, encoder.conv_out, reach_in=reach_of(encoder.conv_out))
    return EncoderStages(tiled, [*whole, last])


@torch.inference_mode()
def encode_exact(
    encoder: Encoder,
    image: Tensor,
    *,
    tile: int,
    strip: int | None = None,
    dtype: torch.dtype | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Tensor:
    """A picture (1, 3, H, W) in -1..1, sides multiples of 32 -> unscaled latents (1, C, h, w).

    Tiles are of `tile` x `tile` pixels. `strip`: run the stages with attention over this many rows of pixels at a time;
    None: over everything at once. `advance` is called after each tile: as often as `exact_tiles.count_tiles` says.
    Tiles of the picture are converted to `dtype`, the encoder's, one by one; None: the picture has it already.
    """
    if len(image) != 1 or tile < 1 or (strip is not None and strip < 1):
        raise ValueError("one picture at a time, in tiles and strips of some size")
    stages = cut_encoder(encoder)
    height = image.shape[2]
    pixels = height // scaled(stages.tiled, height)  # per position of the first map that is whole
    first = _converting(stages.tiled[0], dtype or image.dtype)
    x = in_tiles([first, *stages.tiled[1:]], image, max(1, tile // pixels), advance)
    for step in stages.whole:
        pixels *= step.shrinks if isinstance(step, Step) else 1
        x = in_strips(step, x, x.shape[2] if strip is None else max(1, strip // pixels))
        make_room(x)
    return x


def _converting(first: Step, dtype: torch.dtype) -> Step:
    """The first step, which takes pixels of any dtype."""
    return replace(first, run=lambda x: first.run(x.to(dtype)))
