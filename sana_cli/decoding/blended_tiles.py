"""Decode latents in overlapping tiles and blend their borders, as other programs do; kept for comparison.

Every tile attends to itself alone, so that even skies differ in tone from tile to tile. `tiling.py` does not have
this problem.
"""

# B batch, C channels, H W pixels

from collections.abc import Callable

import torch
from torch import Tensor

from sana_cli.decoding.exact_tiles import cut
from sana_cli.models.dc_ae import Decoder, empty_map
from sana_cli.models.tiny_decoder import TinyDecoder


def stride_of(tile: int, downscale: int = 32) -> int:
    """Pixels from one tile to the next: 896 for the published 1024, whole latent positions for others."""
    return max(downscale, tile * 7 // 8 // downscale * downscale)


def starts(size: int, stride: int) -> range:
    """Return the first positions of tiles along an axis."""
    return range(0, size, stride)


@torch.inference_mode()
def decode_blended(
    decoder: Decoder | TinyDecoder,
    latents: Tensor,
    *,
    tile: int,
    advance: Callable[[], None] = lambda: None,
) -> Tensor:
    """Unscaled latents (B, C, h, w) -> (B, 3, H, W) in tiles of `tile` pixels, a multiple of the downscale."""
    downscale = cut(decoder).downscale
    if tile < downscale or tile % downscale:
        raise ValueError(f"a tile of {tile} pixels is not a multiple of {downscale}")
    stride = stride_of(tile, downscale)
    overlap = tile - stride
    H, W = (downscale * size for size in latents.shape[-2:])
    out: Tensor | None = None
    above: dict[int, Tensor] = {}  # the last rows of each tile in the row above, by its left edge
    for top in starts(H, stride):
        left_edge = None  # the last columns of the tile to the left
        for left in starts(W, stride):
            rows = _latent_window(top, tile, downscale)
            columns = _latent_window(left, tile, downscale)
            piece = decoder(
                latents[..., rows, columns].contiguous(memory_format=torch.channels_last)
            )
            if left in above:
                _blend(above[left], piece, dim=2)
            if left_edge is not None:
                _blend(left_edge, piece, dim=3)
            # Clones: a view would keep every tile of the row in memory.
            above[left] = piece[:, :, -overlap:].clone() if overlap else piece[:, :, :0]
            left_edge = piece[..., -overlap:].clone() if overlap else piece[..., :0]
            if out is None:
                out = empty_map(piece, (*piece.shape[:2], H, W))
            part = piece[:, :, :stride, :stride]
            out[:, :, top : top + stride, left : left + stride] = part
            advance()
    assert out is not None
    return out


def count_tiles(height: int, width: int, tile: int) -> int:
    """Count the tiles of `tile` pixels that `decode_blended` decodes."""
    stride = stride_of(tile)
    return len(starts(height, stride)) * len(starts(width, stride))


def _latent_window(start: int, tile: int, downscale: int) -> slice:
    return slice(start // downscale, (start + tile) // downscale)


def _blend(before: Tensor, piece: Tensor, *, dim: int) -> None:
    """Fade from the end of `before` to the beginning of `piece`, in place, along an axis."""
    extent = min(before.shape[dim], piece.shape[dim])
    if not extent:
        return
    shape = [1] * piece.ndim
    shape[dim] = extent
    weight = (torch.arange(extent, device=piece.device) / extent).to(piece.dtype).view(shape)
    start = piece.narrow(dim, 0, extent)
    end = before.narrow(dim, before.shape[dim] - extent, extent)
    start.copy_(end * (1 - weight) + start * weight)
