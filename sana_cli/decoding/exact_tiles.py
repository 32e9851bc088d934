"""Decode latents in pieces, exactly: no seams, nothing blended.

Only attention looks at the whole picture, and only the small first stages of DC-AE have it. So these run once over
everything, and the rest in tiles: convolutions and per-pixel norms, whose reach is known. A tile reads as much of its
surroundings as its layers reach, layer by layer. When even the first stages are too large, they run in strips of
rows: linear attention adds up its sums over all strips, then applies them.

Tiles give the bits of the undivided decode wherever torch's kernels compute a value alike in maps of every size;
strips add up in another order, which rounds differently. The exception are 8-bit inputs, see `shared_scales.py`.
"""

# B batch, C channels, H W positions of a map, E head width

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from sana_cli.decoding.shared_scales import shared_scales
from sana_cli.models.dc_ae import (
    Decoder,
    EfficientViTBlock,
    MultiscaleLinearAttention,
    NormedGLU,
    ResBlock,
    UpBlock,
    empty_map,
)
from sana_cli.models.layers import attend_to_sums, key_value_sums
from sana_cli.models.tiny_decoder import ConvBlock, TinyDecoder
from sana_cli.system.resident import give_back

Span = tuple[int, int]  # positions start..stop along one axis


@dataclass(frozen=True, slots=True)
class Step:
    """A layer that makes each output position from a few input positions around it."""

    run: Callable[[Tensor], Tensor]
    layer: nn.Module  # what `run` computes with
    grows: int = 1  # output positions per input position, along each axis
    reach_in: int = 0  # neighbours that it reads, counted in input positions
    reach_out: int = 0  # the same, counted in output positions

    def needs(self, span: Span) -> Span:
        """Return the inputs that an output span depends on, as if the map had no edges."""
        start, stop = span[0] - self.reach_out, span[1] + self.reach_out
        return start // self.grows - self.reach_in, -(-stop // self.grows) + self.reach_in


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
    first = Step(decoder.embed, decoder.conv_in, reach_in=_reach(decoder.conv_in))
    blocks = list(decoder.blocks())
    if isinstance(decoder, TinyDecoder):
        last = Step(
            decoder.to_pixels,
            decoder.conv_out,
            grows=decoder.config.patch_size,
            reach_in=_reach(decoder.conv_out),
        )
        return Stages([], [first, *(_step(block) for block in blocks), last])
    attends = [i for i, block in enumerate(blocks) if isinstance(block, EfficientViTBlock)]
    if not attends:
        tiled = [first, *(_step(block) for block in blocks)]
        return Stages([], [*tiled, *_last_steps(decoder)])
    whole: list[Step | MultiscaleLinearAttention] = [first]
    for block in blocks[: attends[-1] + 1]:
        if isinstance(block, EfficientViTBlock):
            whole += [block.attn, _step(block.conv_out)]
        else:
            whole.append(_step(block))
    tiled = [_step(block) for block in blocks[attends[-1] + 1 :]]
    return Stages(whole, [*tiled, *_last_steps(decoder)])


def _last_steps(decoder: Decoder) -> list[Step]:
    return [Step(decoder.normalize, decoder.norm_out), _step(decoder.conv_out)]


def _step(layer: nn.Module) -> Step:
    if isinstance(layer, UpBlock):
        if layer.interpolate:
            return Step(layer, layer, grows=2, reach_out=_reach(layer.conv))
        return Step(layer, layer, grows=2, reach_in=_reach(layer.conv))
    if isinstance(layer, ResBlock):
        return Step(layer, layer, reach_in=_reach(layer.conv1) + _reach(layer.conv2))
    if isinstance(layer, NormedGLU):
        return Step(layer, layer, reach_in=_reach(layer.conv_depth))
    if isinstance(layer, ConvBlock):
        return Step(layer, layer, reach_in=sum(_reach(conv) for conv in layer.convs))
    return Step(layer, layer, reach_in=_reach(layer))


def _reach(conv: nn.Module) -> int:
    """Return the reach of a convolution that keeps the size of its map, quantized or not."""
    padding = conv.padding
    assert isinstance(padding, tuple)
    return int(padding[0])


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
        x = _in_strips(step, x, rows)
        _make_room(x)
    return _in_tiles(stages.tiled, x, tile, advance)


# -- tiles -----------------------------------------------------------------------------------------


def _in_tiles(steps: list[Step], x: Tensor, tile: int, advance: Callable[[], None]) -> Tensor:
    H, W = (growth(steps) * size for size in x.shape[-2:])
    windows = [(rows, columns) for rows in _cuts(H, tile) for columns in _cuts(W, tile)]

    def observe() -> None:
        for rows, columns in windows:
            _run(steps, x, rows, columns)

    out = None
    with shared_scales([step.layer for step in steps], observe):
        for rows, columns in windows:
            piece = _run(steps, x, rows, columns)
            if out is None:
                out = empty_map(piece, (*piece.shape[:2], H, W))
            out[..., slice(*rows), slice(*columns)] = piece
            del piece
            _make_room(out)
            advance()
    assert out is not None
    return out


def _cuts(size: int, length: int) -> Iterator[Span]:
    return ((start, min(start + length, size)) for start in range(0, size, length))


def _run(steps: Sequence[Step], x: Tensor, rows: Span, columns: Span) -> Tensor:
    """Compute a window of the last step's output from just the input that each step needs for it."""
    H, W = x.shape[-2:]
    vertical, horizontal = _inputs(steps, rows, H), _inputs(steps, columns, W)
    top, left = 0, 0  # where x begins in its whole map
    for step, read_rows, read_columns in zip(steps, vertical, horizontal, strict=True):
        piece = _crop(x, read_rows, read_columns, top, left)
        # Kernels would copy a view for themselves, and a view keeps all of its tensor in memory.
        x = step.run(piece.contiguous(memory_format=torch.channels_last))
        del piece
        if step.grows > 1:
            _make_room(x)
        top, left = read_rows[0] * step.grows, read_columns[0] * step.grows
    return _crop(x, rows, columns, top, left)


def _inputs(steps: Sequence[Step], span: Span, size: int) -> list[Span]:
    """Return the span each step reads for an output span, along an axis with `size` positions at
    the first step.

    Only the map's own edges may be padded with zeros, so a span ends there and nowhere else.
    """
    spans: list[Span] = []
    size *= growth(steps)
    for step in reversed(steps):
        size //= step.grows
        start, stop = step.needs(span)
        span = max(0, start), min(size, stop)
        spans.append(span)
    return spans[::-1]


def _crop(x: Tensor, rows: Span, columns: Span, top: int, left: int) -> Tensor:
    return x[..., rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]


def _make_room(like: Tensor) -> None:
    """The maps to come have other sizes on a CPU, and would find no place in what was freed."""
    if like.device.type == "cpu":
        give_back()


# -- strips ----------------------------------------------------------------------------------------


def _in_strips(step: Step | MultiscaleLinearAttention, x: Tensor, rows: int) -> Tensor:
    """A layer over a whole map, at most `rows` rows of its output at a time."""
    H, W = x.shape[-2:]
    if isinstance(step, MultiscaleLinearAttention):
        if rows >= H or not step.is_linear(H * W):
            return step(x)
        return _attention_in_strips(step, x, rows)
    H, W = H * step.grows, W * step.grows
    if rows >= H:
        return step.run(x)
    strips = list(_cuts(H, rows))

    def observe() -> None:
        for strip in strips:
            _run([step], x, strip, (0, W))

    out = None
    with shared_scales([step.layer], observe):
        for strip in strips:
            piece = _run([step], x, strip, (0, W))
            if out is None:
                out = empty_map(piece, (*piece.shape[:2], H, W))
            out[:, :, slice(*strip)] = piece
    assert out is not None
    return out


def _attention_in_strips(attention: MultiscaleLinearAttention, x: Tensor, rows: int) -> Tensor:
    """Two passes: the sums over all positions, then what each position makes of them.

    Projecting twice costs less than keeping queries, which are twice as wide as the map.
    """
    strips = list(_cuts(x.shape[2], rows))
    sums: tuple[Tensor, Tensor] | None = None
    for strip in strips:
        _, k, v = (t.flatten(1, 2) for t in _project(attention, x, strip))
        more = key_value_sums(k, v)
        sums = more if sums is None else (sums[0] + more[0], sums[1] + more[1])
    assert sums is not None
    out = torch.empty_like(x)
    for strip in strips:
        q, _, v = _project(attention, x, strip)
        attended = attend_to_sums(q.flatten(1, 2), *sums).to(v.dtype).unflatten(1, q.shape[1:3])
        out[:, :, slice(*strip)] = attention.finish(x[:, :, slice(*strip)], attended)
    return out


def _project(attention: MultiscaleLinearAttention, x: Tensor, strip: Span) -> list[Tensor]:
    """Queries, keys and values of some rows, (B, H, W, heads, E) each."""
    reach = attention.reach
    start, stop = max(0, strip[0] - reach), min(x.shape[2], strip[1] + reach)
    parts = attention.project(x[:, :, start:stop])
    return [part[:, strip[0] - start : strip[1] - start] for part in parts]
