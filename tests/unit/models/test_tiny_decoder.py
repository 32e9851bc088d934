"""The decoder of convolutions alone: in tiles as whole, in training as in inference, previews by it."""

import pytest
import torch
from torch import Tensor, nn

from sana_cli.config.networks import TinyDecoderConfig
from sana_cli.decoding.exact_tiles import decode_exact
from sana_cli.models.tiny_decoder import TinyAutoencoder, TinyDecoder

CONFIGS = {
    "taesana's form": TinyDecoderConfig(widths=(24, 16, 8, 8, 8, 8), blocks=(3, 3, 3, 3, 3, 1)),
    "patches": TinyDecoderConfig(widths=(16, 16, 8, 8), blocks=(2, 1, 0, 1), patch_size=4),
}


def build(config: TinyDecoderConfig) -> TinyDecoder:
    torch.manual_seed(0)
    decoder = TinyDecoder(config).eval()
    for parameter in decoder.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.1, 0.5)
    return decoder.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def latents(h: int, w: int) -> Tensor:
    return torch.randn(1, 32, h, w, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tile", [32, 96, 1024])
@pytest.mark.parametrize("name", CONFIGS)
def test_tiles_are_exact(name: str, tile: int) -> None:
    decoder, z = build(CONFIGS[name]), latents(5, 3)
    with torch.inference_mode():
        whole = decoder(z.contiguous(memory_format=torch.channels_last))
    assert whole.shape == (1, 3, 160, 96)
    assert whole.std() > 0.05
    tiled = decode_exact(decoder, z, tile=tile, strip=32)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


def test_training_computes_the_same() -> None:
    """Without the folded convolutions and in-place sums of inference."""
    decoder, z = build(CONFIGS["taesana's form"]), latents(4, 4)
    with torch.inference_mode():
        expected = decoder(z)
    decoder.requires_grad_(True)
    found = decoder(z)
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-5)
    found.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())


def test_outliers_are_squeezed() -> None:
    decoder = build(CONFIGS["patches"])
    signs = latents(1, 1).sign()
    torch.testing.assert_close(decoder(30 * signs), decoder(3000 * signs))
    assert not torch.allclose(decoder(signs), decoder(3 * signs), atol=1e-3)


def test_latents_are_not_divided() -> None:
    """TAESANA reads latents of unit variance, as the transformer makes them."""
    z = latents(1, 1)
    assert TinyAutoencoder(TinyDecoderConfig()).unscale(z).equal(z)


@pytest.mark.parametrize(
    "sizes",
    [
        {"widths": (8, 8), "blocks": (1, 1)},
        {"widths": (8,) * 6, "blocks": (1,) * 5},
        {"widths": (8, 8, 8, 0, 8, 8)},
        {"patch_size": 2},
        {"scaling_factor": 0.0},
    ],
)
def test_sizes_that_cannot_be(sizes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        TinyDecoderConfig(**sizes)  # type: ignore[arg-type]
