"""Blended tiles are those of diffusers."""

from types import ModuleType
from typing import Any

import pytest
import torch

from sana_cli.config.networks import DCAEConfig
from sana_cli.decoding.blended_tiles import count_tiles, decode_blended, stride_of
from sana_cli.models.dc_ae import AutoencoderDC


@pytest.fixture(scope="module")
def pair(reference: ModuleType) -> tuple[AutoencoderDC, Any]:
    """Ours and theirs, of the same weights."""
    theirs = reference.lively_vae(reference.VAE_TINY, 3)
    ours = AutoencoderDC(DCAEConfig(**reference.VAE_TINY)).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize(("h", "w"), [(2, 2), (5, 7), (9, 4)])
@pytest.mark.parametrize("tile", [128, 256, 1024])
def test_as_diffusers(pair: tuple[AutoencoderDC, Any], h: int, w: int, tile: int) -> None:
    ours, theirs = pair
    stride = stride_of(tile)
    theirs.enable_tiling(tile, tile, stride, stride)
    z = torch.randn(1, 32, h, w, generator=torch.Generator().manual_seed(2))
    calls: list[None] = []
    found = decode_blended(ours.decoder, z, tile=tile, advance=lambda: calls.append(None))
    with torch.inference_mode():
        expected = theirs.tiled_decode(z).sample
    scale = float(expected.abs().max())
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=2e-5)
    assert len(calls) == count_tiles(32 * h, 32 * w, tile)


def test_strides() -> None:
    assert stride_of(1024) == 896, "as published"
    assert stride_of(64) == 32
    assert stride_of(32) == 32, "no overlap"
    assert all(stride_of(tile) % 32 == 0 for tile in range(32, 2048, 32))


@pytest.mark.parametrize("tile", [0, 16, 100])
def test_refuses_parts_of_positions(reference: ModuleType, tile: int) -> None:
    decoder = AutoencoderDC(DCAEConfig(**reference.VAE_TINY)).decoder
    with pytest.raises(ValueError, match="multiple of 32"):
        decode_blended(decoder, torch.zeros(1, 32, 1, 1), tile=tile)
