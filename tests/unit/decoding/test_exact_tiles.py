"""Tiles and strips give the undivided picture: its bits where kernels allow, else its values up to rounding."""

# C channels, h w latent grid

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant.convert import quantize_
from quant.layers import QuantConv2d
from sana_cli.config.networks import DCAEConfig
from sana_cli.config.recipes import component_recipe
from sana_cli.decoding import exact_tiles
from sana_cli.decoding.exact_tiles import count_tiles, cut, decode_exact, growth
from sana_cli.decoding.shared_scales import unscaled_convs
from sana_cli.decoding.windows import Step
from sana_cli.loading.load import TOKEN_CONVS
from sana_cli.models.dc_ae import AutoencoderDC, Decoder, ResBlock, UpBlock

ROUNDING = 1e-5  # of values of about one; a tile without its surroundings is wrong by far more
NARROW = (16, 32, 32, 32, 64, 64)


def build(
    layers: tuple[int, ...] = (1, 1, 1, 2, 1, 1),
    *,
    widths: tuple[int, ...] = NARROW,
    upsample: str = "interpolate",
    kinds: tuple[str, ...] = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    scales: tuple[int, ...] = (5,),
) -> Decoder:
    """A random decoder whose norms and biases are all spread."""
    config = DCAEConfig(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=layers,
        upsample_block_type=upsample,
        decoder_block_types=kinds,
        decoder_qkv_multiscales=tuple(scales if kind != "ResBlock" else () for kind in kinds),
    )
    torch.manual_seed(0)
    decoder = AutoencoderDC(config).decoder.eval()
    for parameter in decoder.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5, 0.5)
    return decoder.requires_grad_(False)


def latents(h: int, w: int) -> Tensor:
    return torch.randn(1, 32, h, w, generator=torch.Generator().manual_seed(1))


def undivided(decoder: Decoder, z: Tensor) -> Tensor:
    with torch.inference_mode():
        return decoder(z.contiguous(memory_format=torch.channels_last))


DEPTHS: dict[str, dict[str, Any]] = {
    "one": {"layers": (1,) * 6},
    "published": {"layers": (3,) * 6},
    "uneven": {"layers": (2, 1, 4, 1, 2, 1)},
    "no full resolution": {"layers": (0, 1, 2, 1, 1, 1)},
    "shuffle": {"upsample": "pixel_shuffle"},
    "shuffle, no full resolution": {"layers": (0, 1, 1, 1, 1, 1), "upsample": "pixel_shuffle"},
    "attention everywhere": {"kinds": ("EfficientViTBlock",) * 6, "widths": (32,) * 6},
    "no attention": {"kinds": ("ResBlock",) * 6},
    "two scales": {"scales": (3, 5)},
    "no scales": {"scales": ()},
}


@pytest.mark.parametrize("depths", DEPTHS)
def test_all_depths(depths: str) -> None:
    decoder, z = build(**DEPTHS[depths]), latents(3, 4)
    expected = undivided(decoder, z)
    for tile, strip in ((32, None), (64, None), (64, 32), (1024, None)):
        found = decode_exact(decoder, z, tile=tile, strip=strip)
        torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 7), (5, 2), (3, 3)])
def test_every_size_of_tiles_and_strips(h: int, w: int) -> None:
    decoder, z = build(), latents(h, w)
    expected = undivided(decoder, z)
    pairs = [(32, None), (32, 1), (33, 32), (64, 64), (64, 1), (96, None), (32 * max(h, w), 4096)]
    for tile, strip in (*pairs, (4096, None), (4096, 32)):
        found = decode_exact(decoder, z, tile=tile, strip=strip)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)


class NoNorm(nn.Module):
    """What is around a norm: its residual."""

    def forward(
        self, x: Tensor, residual: Tensor | None = None, *, inplace: bool = False
    ) -> Tensor:
        return x if residual is None else x + residual


def of_integers(decoder: Decoder) -> Decoder:
    """The same layers with small integers everywhere: sums are exact, in whatever order a kernel adds."""
    generator = torch.Generator().manual_seed(3)
    for parameter in decoder.parameters():
        parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=generator))
    for module in decoder.modules():
        if isinstance(module, ResBlock):
            module.norm, module.act = NoNorm(), F.relu  # type: ignore[assignment]
        if isinstance(module, ResBlock | UpBlock) or module is decoder.conv_in:
            module.register_forward_hook(lambda _, __, out: (out / 4).round().clamp(-3, 3))
    decoder.norm_out = NoNorm()  # type: ignore[assignment]
    return decoder


@pytest.mark.parametrize("upsample", ["interpolate", "pixel_shuffle"])
@pytest.mark.parametrize("layers", [(3,) * 6, (1, 2, 1, 1, 1, 1), (0, 2, 1, 3, 1, 1)])
def test_bit_for_bit(layers: tuple[int, ...], upsample: str) -> None:
    """Each value is computed from the same values: equal, not close, for every size."""
    narrow = (8, 16, 16, 32, 32, 32)  # attention of the encoder has heads of 32
    kinds = ("ResBlock",) * 6
    decoder = of_integers(build(layers, widths=narrow, upsample=upsample, kinds=kinds))
    for h, w in ((1, 2), (3, 5)):
        z = latents(h, w).mul(2).round()
        expected = undivided(decoder, z)
        assert expected.unique().numel() > 5
        for tile, strip in ((32, None), (32, 32), (40, 64), (64, 32), (97, None), (1024, 64)):
            assert torch.equal(decode_exact(decoder, z, tile=tile, strip=strip), expected)


def halo(steps: list[Step]) -> int:
    """Input positions around a tile that its outputs depend on."""
    span = (0, growth(steps))
    for step in reversed(steps):
        span = step.needs(span)
    return -span[0]


def test_halo() -> None:
    assert halo(cut(build((3,) * 6)).tiled) == 7, "the published depths"
    assert halo(cut(build((1,) * 6)).tiled) == 3
    assert halo(cut(build((3,) * 6, upsample="pixel_shuffle")).tiled) == 8
    assert cut(build()).downscale == 32


@pytest.mark.parametrize("index", [3, 4, 6, 8], ids=["up", "blocks", "last block", "conv_out"])
def test_reach_is_needed(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One position less around a layer shows: the tests above would notice. (Others read rounded-up spans.)"""
    decoder, z = build((1, 1, 2, 1, 1, 1)), latents(3, 3)
    stages = cut(decoder)
    step = stages.tiled[index]
    stages.tiled[index] = replace(
        step, reach_in=max(0, step.reach_in - 1), reach_out=max(0, step.reach_out - 1)
    )
    monkeypatch.setattr(exact_tiles, "cut", lambda _: stages)
    error = (decode_exact(decoder, z, tile=32) - undivided(decoder, z)).abs().max()
    assert error > 10 * ROUNDING, f"{error:.1e}"


def test_refuses_nonsense() -> None:
    for z, options in (
        (latents(1, 1).expand(2, -1, -1, -1), {"tile": 32}),
        (latents(1, 1), {"tile": 0}),
        (latents(1, 1), {"tile": 32, "strip": 0}),
    ):
        with pytest.raises(ValueError, match="one picture at a time"):
            decode_exact(build(), z, **options)  # type: ignore[arg-type]


def test_advances_once_a_tile() -> None:
    calls: list[None] = []
    decode_exact(build(), latents(3, 5), tile=64, advance=lambda: calls.append(None))
    assert len(calls) == count_tiles(96, 160, 64) == 6


# -- quantized convolutions ------------------------------------------------------------------------


def quantized(scheme: str) -> Decoder:
    decoder = build((2, 2, 2, 1, 1, 1))
    recipe = component_recipe("vae", scheme)
    rules = tuple(rule for rule in recipe.rules if not rule.pattern.startswith("*coder"))
    quantize_(decoder, replace(recipe, rules=rules), token_convs=TOKEN_CONVS)
    return decoder


def test_eight_bit_weights() -> None:
    decoder, z = quantized("w8a16"), latents(3, 4)
    assert not unscaled_convs([decoder])
    found = decode_exact(decoder, z, tile=64, strip=32)
    torch.testing.assert_close(found, undivided(decoder, z), rtol=0, atol=ROUNDING)


def test_stored_scales() -> None:
    """A layer with a stored scale gives a value the same integer wherever it stands."""
    decoder, z = quantized("w8a8"), latents(3, 4)
    largest: dict[str, Tensor] = {}
    for path, layer in decoder.named_modules():
        if isinstance(layer, QuantConv2d):
            layer.register_forward_pre_hook(
                lambda _, inputs, path=path: largest.update({path: inputs[0].abs().amax() / 127})
            )
    undivided(decoder, z)
    for path, scale in largest.items():
        decoder.get_submodule(path).act_scale = scale
    assert not unscaled_convs([decoder])
    found = decode_exact(decoder, z, tile=64)
    error = (found - undivided(decoder, z)).abs()
    assert error.mean() < 1e-3, "a value on the edge of two integers may round either way"


def test_one_scale_for_all_tiles() -> None:
    """Scales that are found while running are those of the picture, not those of a tile."""
    decoder, z = quantized("w8a8"), latents(4, 4)
    z[..., :2, :2] *= 8  # a loud corner
    layers = unscaled_convs([decoder])
    assert layers
    expected = undivided(decoder, z)
    spread = float(expected.std())
    found = decode_exact(decoder, z, tile=32)
    assert float((found - expected).abs().mean()) < 0.02 * spread
    assert all(layer.act_scale is None for layer in layers), "as before"
