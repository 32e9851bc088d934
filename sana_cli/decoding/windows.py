"""Run layers over a map in pieces, exactly: each piece reads as much around it as its layers reach.

Tiles are windows of several layers in a row, strips are rows of one layer. Linear attention, which looks at the whole
map, adds up its sums over all strips first, then applies them.
"""

# B batch, C channels, H W positions of a map, E head width

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sana_cli.decoding.shared_scales import shared_scales
from sana_cli.models.dc_ae import (
    DownBlock,
    MultiscaleLinearAttention,
    NormedGLU,
    ResBlock,
    UpBlock,
    empty_map,
)
from sana_cli.models.layers import attend_to_sums, key_value_sums
from sana_cli.models.tiny_decoder import ConvBlock
from sana_cli.system.resident import give_back

Span = tuple[int, int]  # positions start..stop along one axis


@dataclass(frozen=True, slots=True)
class Step:
    """A layer that makes each output position from a few input positions around it."""

    run: Callable[[Tensor], Tensor]
    layer: nn.Module  # what `run` computes with
    grows: int = 1  # output positions per input position, along each axis
    shrinks: int = 1  # input positions per output position; windows begin and end at whole ones
    reach_in: int = 0  # neighbours that it reads, counted in input positions
    reach_out: int = 0  # the same, counted in output positions

    def needs(self, span: Span) -> Span:
        """Return the inputs that an output span depends on, as if the map had no edges."""
        start, stop = span[0] - self.reach_out, span[1] + self.reach_out
        start = start // self.grows * self.shrinks - self.reach_in
        stop = -(-stop // self.grows) * self.shrinks + self.reach_in
        return start // self.shrinks * self.shrinks, -(-stop // self.shrinks) * self.shrinks

    def scaled(self, size: int) -> int:
        """Output positions along an axis with `size` input positions."""
        return size * self.grows // self.shrinks


def scaled(steps: Sequence[Step], size: int) -> int:
    """Output positions of several layers along an axis with `size` input positions."""
    for step in steps:
        size = step.scaled(size)
    return size


def step_of(layer: nn.Module) -> Step:
    """The step of a layer, by its kind."""
    if isinstance(layer, UpBlock):
        if layer.interpolate:
            return Step(layer, layer, grows=2, reach_out=reach_of(layer.conv))
        return Step(layer, layer, grows=2, reach_in=reach_of(layer.conv))
    if isinstance(layer, DownBlock):
        return Step(layer, layer, shrinks=2, reach_in=reach_of(layer.conv))
    if isinstance(layer, ResBlock):
        return Step(layer, layer, reach_in=reach_of(layer.conv1) + reach_of(layer.conv2))
    if isinstance(layer, NormedGLU):
        return Step(layer, layer, reach_in=reach_of(layer.conv_depth))
    if isinstance(layer, ConvBlock):
        return Step(layer, layer, reach_in=sum(reach_of(conv) for conv in layer.convs))
    return Step(layer, layer, reach_in=reach_of(layer))


def reach_of(conv: nn.Module) -> int:
    """Return the reach of a convolution that keeps the size of its map, quantized or not."""
    padding = conv.padding
    assert isinstance(padding, tuple)
    return int(padding[0])


# -- tiles -----------------------------------------------------------------------------------------


def in_tiles(
    steps: Sequence[Step], x: Tensor, tile: int, advance: Callable[[], None] = lambda: None
) -> Tensor:
    """Several layers over a whole map, a window of `tile` x `tile` positions of the last one's output at a time."""
    H, W = (scaled(steps, size) for size in x.shape[-2:])
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
            make_room(out)
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
        if step.grows > 1 or step.shrinks > 1:
            make_room(x)
        top, left = step.scaled(read_rows[0]), step.scaled(read_columns[0])
    return _crop(x, rows, columns, top, left)


def _inputs(steps: Sequence[Step], span: Span, size: int) -> list[Span]:
    """Return the span each step reads for an output span, along an axis with `size` positions at
    the first step.

    Only the map's own edges may be padded with zeros, so a span ends there and nowhere else.
    """
    spans: list[Span] = []
    sizes = [size]  # of what each step reads
    for step in steps[:-1]:
        sizes.append(step.scaled(sizes[-1]))
    for step, size in zip(reversed(steps), reversed(sizes), strict=True):
        start, stop = step.needs(span)
        span = max(0, start), min(size, stop)
        spans.append(span)
    return spans[::-1]


def _crop(x: Tensor, rows: Span, columns: Span, top: int, left: int) -> Tensor:
    return x[..., rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]


def make_room(like: Tensor) -> None:
    """The maps to come have other sizes on a CPU, and would find no place in what was freed."""
    if like.device.type == "cpu":
        give_back()


# -- strips ----------------------------------------------------------------------------------------


def in_strips(step: Step | MultiscaleLinearAttention, x: Tensor, rows: int) -> Tensor:
    """A layer over a whole map, at most `rows` rows of its output at a time."""
    H, W = x.shape[-2:]
    if isinstance(step, MultiscaleLinearAttention):
        if rows >= H or not step.is_linear(H * W):
            return step(x)
        return _attention_in_strips(step, x, rows)
    H, W = step.scaled(H), step.scaled(W)
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
