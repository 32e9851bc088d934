"""Pieces of a picture are rounded by one scale, that of the whole."""

import pytest
import torch
from torch import nn

from quant.config import QuantConfig
from quant.layers import QuantConv2d
from sana_cli.decoding.shared_scales import shared_scales, unscaled_convs


def quantized(act_bits: int = 8) -> QuantConv2d:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    return QuantConv2d.from_conv(conv, QuantConfig(weight_bits=8, act_bits=act_bits))


def test_a_shared_scale_is_the_undivided_one() -> None:
    conv = QuantConv2d.from_conv(
        nn.Conv2d(8, 8, 3, padding=1), QuantConfig(weight_bits=8, act_bits=8)
    )
    x = torch.randn(1, 8, 6, 6)
    parts = x.split(3, dim=2)
    with torch.inference_mode():
        expected = conv(x)
        with shared_scales([conv], lambda: [conv(part) for part in parts]):
            assert torch.equal(conv(x), expected)
        with pytest.raises(RuntimeError), shared_scales([conv], lambda: conv(x)):
            raise RuntimeError
    assert conv.act_scale is None
    with shared_scales([conv], lambda: conv(torch.zeros(1, 8, 3, 3))):
        assert conv(torch.zeros(1, 8, 3, 3)).isfinite().all()


def test_layers_that_look_for_their_scale() -> None:
    """Those with stored scales and those with float inputs do not."""
    looking, stored, floats = quantized(), quantized(), quantized(16)
    stored.act_scale = torch.tensor(0.1)
    model = nn.Sequential(looking, nn.Sequential(stored), floats, nn.Conv2d(8, 8, 3))
    assert unscaled_convs([model]) == [looking]


def test_the_loudest_piece_decides() -> None:
    conv = quantized()
    pieces = [torch.full((1, 8, 3, 3), value) for value in (1.0, -12.7, 3.0)]
    with shared_scales([conv], lambda: [conv(piece) for piece in pieces]):
        assert conv.act_scale is not None
        assert float(conv.act_scale) == pytest.approx(0.1)
    assert not conv._forward_pre_hooks


def test_nothing_is_observed_where_nothing_looks() -> None:
    def fail() -> None:
        pytest.fail("a pass for nothing")

    with shared_scales([nn.Conv2d(8, 8, 3)], fail):
        pass
