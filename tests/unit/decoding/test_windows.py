"""Windows of layers: what they read, how they scale, and that pieces of them are the whole."""

# C channels, H W positions of a map

import pytest
import torch
from torch import nn

from sana_cli.decoding.windows import Step, in_strips, in_tiles, scaled, step_of
from sana_cli.models.dc_ae import DownBlock, UpBlock


@pytest.mark.parametrize(
    ("step", "span", "needs"),
    [
        ({"reach_in": 1}, (4, 8), (3, 9)),
        ({"grows": 2, "reach_out": 1}, (4, 8), (1, 5)),
        ({"grows": 2, "reach_in": 1}, (4, 8), (1, 5)),
        ({"shrinks": 2, "reach_in": 1}, (4, 8), (6, 18)),
        ({"shrinks": 2}, (4, 8), (8, 16)),
    ],
)
def test_what_a_window_reads(
    step: dict[str, int], span: tuple[int, int], needs: tuple[int, int]
) -> None:
    """Windows of layers that shrink begin and end at whole output positions."""
    layer = nn.Identity()
    assert Step(layer, layer, **step).needs(span) == needs


def test_sizes_of_what_layers_make() -> None:
    down = step_of(DownBlock(4, 4, unshuffle=False))
    up = step_of(UpBlock(4, 4, interpolate=True))
    assert scaled([down, down, up], 64) == 32
    assert scaled([], 64) == 64


@pytest.mark.parametrize("unshuffle", [False, True])
@torch.inference_mode()
def test_pieces_are_the_whole(unshuffle: bool) -> None:
    torch.manual_seed(0)
    layers = [DownBlock(4, 8, unshuffle=unshuffle), nn.Conv2d(8, 8, 3, padding=1)]
    layers += [UpBlock(8, 4, interpolate=True), DownBlock(4, 4, unshuffle=unshuffle)]
    steps = [step_of(layer) for layer in layers]
    x = torch.randn(1, 4, 12, 20)
    expected = nn.Sequential(*layers)(x)
    for tile in (1, 2, 4, 100):
        torch.testing.assert_close(in_tiles(steps, x, tile), expected, rtol=0, atol=1e-5)
    strips = x
    for step in steps:
        strips = in_strips(step, strips, 3)
    torch.testing.assert_close(strips, expected, rtol=0, atol=1e-5)
