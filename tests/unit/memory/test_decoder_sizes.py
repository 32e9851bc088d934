"""Predicted maps of the autoencoder, compared with what was measured."""

import pytest

from sana_cli.config.networks import DCAEConfig
from sana_cli.memory.decoder_sizes import (
    decode_activations,
    encode_activations,
    resize_activations,
)
from sana_cli.memory.plans import WHOLE, exact_tiles

GIB = 2**30


def test_decoding_is_measured() -> None:
    """On a CPU in fp32, with the published decoder: `benchmarks/results/memory.json`."""
    whole = decode_activations(DCAEConfig(), WHOLE, 1024, 1024, 4)
    assert whole == pytest.approx(1.9 * GIB, rel=0.1)
    sizes = [
        decode_activations(DCAEConfig(), plan, 1024, 1024, 4)
        for plan in (WHOLE, *(exact_tiles(tile, 1024, 1024) for tile in (512, 256, 128)))
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert decode_activations(DCAEConfig(), WHOLE, 1024, 1024, 2) == whole // 2


@pytest.mark.parametrize(
    ("side", "itemsize", "measured"), [(1024, 4, 1596), (512, 4, 406), (1024, 2, 836)]
)
def test_encoding_is_measured(side: int, itemsize: int, measured: int) -> None:
    """With the published encoder on a CPU; MiB beyond its weights."""
    predicted = encode_activations(DCAEConfig(), WHOLE, side, side, itemsize) / 2**20
    assert predicted == pytest.approx(measured, rel=0.1)


def test_encoding_in_tiles_is_measured() -> None:
    """With the published encoder; two cores with AMX, in bf16 and fp32."""
    for side, tile, itemsize, measured in (
        (512, 256, 2, 159), (512, 256, 4, 193), (1024, 512, 2, 375),
    ):  # fmt: skip
        plan = exact_tiles(tile, side, side)
        predicted = encode_activations(DCAEConfig(), plan, side, side, itemsize) / 2**20
        assert predicted == pytest.approx(measured, rel=0.15)


def test_encoding_takes_less_and_less() -> None:
    for side in (1024, 4096):
        plans = (WHOLE, *(exact_tiles(tile, side, side) for tile in (512, 256, 128)))
        sizes = [encode_activations(DCAEConfig(), plan, side, side, 2) for plan in plans]
        assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < GIB, "4096 pixels, of which the picture itself is 0.2"


def test_a_picture_of_its_own_size_is_not_resized() -> None:
    assert resize_activations(96, 64, (64, 96)) == 0
    assert resize_activations(96, 64, (128, 192)) >= 3 * 4 * 128 * 192
