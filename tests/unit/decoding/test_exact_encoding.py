"""Encoding in tiles and strips gives the undivided latents: their bits where kernels allow, else up to rounding."""

# C channels, h w latent grid, H W pixels

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant.convert import quantize_
from sana_cli.config.networks import DCAEConfig
from sana_cli.config.recipes import component_recipe
from sana_cli.decoding.exact_encoding import EncoderStages, cut_encoder, encode_exact
from sana_cli.decoding.exact_tiles import count_tiles
from sana_cli.decoding.shared_scales import unscaled_convs
from sana_cli.decoding.windows import in_strips, in_tiles
from sana_cli.loading.load import TOKEN_CONVS
from sana_cli.models.dc_ae import AutoencoderDC, DownBlock, Encoder, ResBlock

ROUNDING = 1e-5  # of the largest value; a tile without its surroundings is wrong by far more
NARROW = (16, 32, 32, 32, 64, 64)


def build(
    layers: tuple[int, ...] = (1, 1, 1, 2, 1, 1),
    *,
    widths: tuple[int, ...] = NARROW,
    downsample: str = "conv",
    kinds: tuple[str, ...] = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    scales: tuple[int, ...] = (5,),
) -> Encoder:
    """A random encoder whose norms and biases are all spread."""
    config = DCAEConfig(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=(1,) * 6,
        downsample_block_type=downsample,
        encoder_block_types=kinds,
        encoder_qkv_multiscales=tuple(scales if kind != "ResBlock" else () for kind in kinds),
    )
    torch.manual_seed(0)
    encoder = AutoencoderDC(config).encoder.eval()
    for parameter in encoder.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5, 0.5)
    return encoder.requires_grad_(False)


def picture(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def undivided(encoder: Encoder, image: Tensor) -> Tensor:
    with torch.inference_mode():
        return encoder(image.contiguous(memory_format=torch.channels_last))


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


DEPTHS: dict[str, dict[str, Any]] = {
    "one": {"layers": (1,) * 6},
    "published": {"layers": (2, 2, 2, 3, 3, 3)},
    "uneven": {"layers": (2, 1, 4, 1, 2, 1)},
    "no full resolution": {"layers": (0, 1, 2, 1, 1, 1)},
    "unshuffle": {"downsample": "pixel_unshuffle"},
    "unshuffle, no full resolution": {"layers": (0, 1, 1, 1, 1, 1), "downsample": "pixel_unshuffle"},
    "attention everywhere": {"kinds": ("EfficientViTBlock",) * 6, "widths": (32,) * 6},
    "no attention": {"kinds": ("ResBlock",) * 6},
    "two scales": {"scales": (3, 5)},
    "no scales": {"scales": ()},
}  # fmt: skip


@pytest.mark.parametrize("depths", DEPTHS)
def test_all_depths(depths: str) -> None:
    encoder, image = build(**DEPTHS[depths]), picture(96, 128)
    expected = undivided(encoder, image)
    for tile, strip in ((32, None), (64, None), (64, 32), (1024, None)):
        found = encode_exact(encoder, image, tile=tile, strip=strip)
        assert error(found, expected) < ROUNDING


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 4), (3, 2)])
def test_every_size_of_tiles_and_strips(h: int, w: int) -> None:
    encoder, image = build(), picture(32 * h, 32 * w)
    expected = undivided(encoder, image)
    pairs = [(32, None), (32, 1), (33, 32), (64, 64), (64, 1), (96, None), (32 * max(h, w), 4096)]
    for tile, strip in (*pairs, (1, None), (4096, None), (4096, 32)):
        found = encode_exact(encoder, image, tile=tile, strip=strip)
        assert found.shape == expected.shape == (1, 32, h, w)
        assert error(found, expected) < ROUNDING


@pytest.mark.parametrize("downsample", ["conv", "pixel_unshuffle"])
@pytest.mark.parametrize("kind", [ResBlock, DownBlock])
def test_reach_is_needed(kind: type[nn.Module], downsample: str) -> None:
    """Less around the layers of a kind shows: the tests above would notice. (Windows are rounded up to whole positions.)"""
    encoder, image = build(downsample=downsample), picture(64, 96)

    def error_of(stages: EncoderStages) -> float:
        x = in_tiles(stages.tiled, image, 4)
        for step in stages.whole:
            x = in_strips(step, x, 2)
        return error(x, undivided(encoder, image))

    stages = cut_encoder(encoder)
    narrower = [
        replace(step, reach_in=0) if isinstance(step.layer, kind) else step for step in stages.tiled
    ]
    assert narrower != stages.tiled
    assert error_of(stages) < ROUNDING
    assert error_of(replace(stages, tiled=narrower)) > 10 * ROUNDING


def test_a_picture_of_another_dtype() -> None:
    encoder, image = build().bfloat16(), picture(64, 96)
    found = encode_exact(encoder, image, tile=64, dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16
    expected = undivided(encoder, image.bfloat16())
    assert (found - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_refuses_nonsense() -> None:
    for image, options in (
        (picture(32, 32).expand(2, -1, -1, -1), {"tile": 32}),
        (picture(32, 32), {"tile": 0}),
        (picture(32, 32), {"tile": 32, "strip": 0}),
    ):
        with pytest.raises(ValueError, match="one picture at a time"):
            encode_exact(build(), image, **options)  # type: ignore[arg-type]


def test_a_block_keeps_no_map_of_those_before() -> None:
    """The first stage has the largest maps: one more would be a third of the peak."""
    encoder = build((2, 1, 1, 1, 1, 1))
    first, second, *_ = encoder.blocks()
    made: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []
    first.register_forward_pre_hook(lambda _, inputs: made.append(weakref.ref(inputs[0])))
    second.register_forward_pre_hook(lambda *_: alive.append(made[0]() is not None))
    undivided(encoder, picture(64, 64))
    assert alive == [False]


def test_advances_once_a_tile() -> None:
    calls: list[None] = []
    encode_exact(build(), picture(96, 160), tile=64, advance=lambda: calls.append(None))
    assert len(calls) == count_tiles(96, 160, 64) == 6


@pytest.mark.parametrize("scheme", ["w8a16", "w8a8"])
def test_quantized_convolutions(scheme: str) -> None:
    """Eight-bit inputs share one scale among all tiles: nothing shows where they meet."""
    encoder, image = build((2, 2, 2, 1, 1, 1)), picture(128, 128)
    image[..., :40, :40] *= 8  # a loud corner
    recipe = component_recipe("vae", scheme)
    rules = tuple(rule for rule in recipe.rules if not rule.pattern.startswith("*coder"))
    quantize_(encoder, replace(recipe, rules=rules), token_convs=TOKEN_CONVS)
    assert bool(unscaled_convs([encoder])) == (scheme == "w8a8")
    found, expected = encode_exact(encoder, image, tile=32, strip=32), undivided(encoder, image)
    difference = (found - expected).abs()
    assert difference.mean() < (1e-2 if scheme == "w8a8" else ROUNDING) * expected.abs().mean()
