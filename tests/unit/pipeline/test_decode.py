"""Latents become pixels: whole or in tiles, cropped to the picture, under smaller plans where memory runs out."""

# B batch, C latent channels, h w latent grid

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sana_cli.config.networks import DCAEConfig
from sana_cli.decoding.blended_tiles import count_tiles as count_blended
from sana_cli.decoding.exact_tiles import count_tiles
from sana_cli.memory.plans import WHOLE, DecodePlan
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.pipeline.components import Components
from sana_cli.pipeline.decode import decode, decode_latents
from sana_cli.pipeline.values import BrokenValues
from sana_cli.request.params import GenerationParams
from tests.faults import raising

ROUNDING = 1e-4
NARROW = (16, 32, 32, 32, 64, 64)
TILES = DecodePlan(mode="exact-tiles", tile=64)
STRIPS = DecodePlan(mode="exact-tiles", tile=64, strip=32)
BLENDED = DecodePlan(mode="blended-tiles", tile=64)


@pytest.fixture(scope="module")
def vae() -> AutoencoderDC:
    torch.manual_seed(0)
    config = DCAEConfig(
        encoder_block_out_channels=NARROW,
        decoder_block_out_channels=NARROW,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
    )
    return AutoencoderDC(config).eval().requires_grad_(False)


def latents(h: int, w: int, *, batch: int = 1) -> Tensor:
    return torch.randn(batch, 32, h, w, generator=torch.Generator().manual_seed(1))


# -- decode ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 1)])
@pytest.mark.parametrize("plan", [WHOLE, TILES, STRIPS, BLENDED], ids=str)
def test_shapes(vae: AutoencoderDC, plan: DecodePlan, shape: tuple[int, int]) -> None:
    decoded = decode(vae, latents(*shape), plan=plan)
    assert decoded.shape == (1, 3, 32 * shape[0], 32 * shape[1])
    assert not decoded.requires_grad


def test_several_at_once(vae: AutoencoderDC) -> None:
    both = latents(2, 3, batch=2)
    alone = torch.cat([decode(vae, one) for one in both.split(1)])
    torch.testing.assert_close(decode(vae, both), alone, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("plan", [TILES, STRIPS], ids=["tiles", "strips"])
def test_exact_tiles_are_the_whole_picture(vae: AutoencoderDC, plan: DecodePlan) -> None:
    given = latents(5, 4)
    whole = decode(vae, given)
    torch.testing.assert_close(decode(vae, given, plan=plan), whole, atol=ROUNDING, rtol=0)


def test_latents_are_unscaled_in_the_decoder_s_precision(vae: AutoencoderDC) -> None:
    given = latents(2, 2)
    with torch.inference_mode():
        expected = vae.decode(given / vae.config.scaling_factor)
    assert torch.equal(decode(vae, given.double()), expected)
    assert given.equal(latents(2, 2)), "latents that are kept in a file stay as they are"


@pytest.mark.parametrize(
    ("plan", "count"),
    [(WHOLE, 0), (TILES, count_tiles(160, 128, 64)), (BLENDED, count_blended(160, 128, 64))],
    ids=["whole", "exact", "blended"],
)
def test_each_tile_is_reported(vae: AutoencoderDC, plan: DecodePlan, count: int) -> None:
    calls: list[None] = []
    decode(vae, latents(5, 4), plan=plan, advance=lambda: calls.append(None))
    assert len(calls) == count


@pytest.mark.parametrize("plan", [WHOLE, TILES], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_latents(vae: AutoencoderDC, plan: DecodePlan, value: float) -> None:
    given = latents(3, 3)
    given[0, 5, 1, 1] = value
    with pytest.raises(BrokenValues, match="NaN or infinite values after decoding"):
        decode(vae, given, plan=plan)


def test_less_than_half_a_grey_level_is_no_picture(vae: AutoencoderDC) -> None:
    last = vae.decoder.conv_out
    before = [parameter.clone() for parameter in last.parameters()]
    try:
        for parameter in last.parameters():
            parameter.mul_(1e-6)
        with pytest.raises(BrokenValues, match="flat values after decoding"):
            decode(vae, latents(2, 2))
    finally:
        for parameter, value in zip(last.parameters(), before, strict=True):
            parameter.copy_(value)


# -- decode_latents --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(96, 64), (90, 64), (50, 50), (96, 20)])
def test_the_picture_has_the_size_that_was_asked_for(
    components: Components, params: Callable[..., GenerationParams], size: tuple[int, int]
) -> None:
    components.plan_for(params(width=96, height=64))
    width, height = size
    decoded = decode_latents(components, latents(2, 3), width=width, height=height)
    assert decoded.shape == (1, 3, height, width)
    assert components.stopwatch.seconds["decode"] > 0


def test_out_of_memory_steps_down_to_tiles(
    components: Components, params: Callable[..., GenerationParams], told: Any,
    before_computing: Callable[..., Any],
) -> None:  # fmt: skip
    """First without the transformer, then in tiles; the picture is the same up to rounding."""
    components.plan_for(params(width=256, height=256))
    given = latents(8, 8)
    whole = decode_latents(components, given, width=256, height=256)
    components.transformer()
    with before_computing("decode", raising(MemoryError(), 2)):
        tiles = decode_latents(components, given, width=256, height=256)
    assert told.notices == [
        "out of memory: decode whole; trying without the transformer",
        "out of memory: decode whole; trying exact-tiles 128",
    ]
    assert not components.evict_transformer(), "it is no longer in memory"
    torch.testing.assert_close(tiles, whole, atol=1e-3, rtol=0)


def test_the_last_plan_gives_the_error_back(
    components: Components, params: Callable[..., GenerationParams],
    before_computing: Callable[..., Any],
) -> None:  # fmt: skip
    components.plan_for(params(width=256, height=256))
    with (
        before_computing("decode", raising(MemoryError("no more"), 99)),
        pytest.raises(MemoryError, match="no more"),
    ):
        decode_latents(components, latents(8, 8), width=256, height=256)
    assert str(components.plan.decode) == "exact-tiles 128"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug"), OSError("No such file")])  # fmt: skip
def test_other_errors_pass(
    components: Components, params: Callable[..., GenerationParams], told: Any,
    before_computing: Callable[..., Any], error: BaseException,
) -> None:  # fmt: skip
    components.plan_for(params())
    with before_computing("decode", raising(error, 1)), pytest.raises(type(error)):
        decode_latents(components, latents(2, 2), width=64, height=64)
    assert told.notices == []
