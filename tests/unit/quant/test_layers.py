"""Quantized layers and the walk that swaps them in."""

import pytest
import torch
from torch import Tensor, nn

from quant.config import QuantConfig, Recipe, Rule
from quant.convert import RecipeError, quantize_, swap_empty_
from quant.layers import QuantConv2d, QuantLinear
from quant.primitives import quantize_rows_float8, sqnr_db
from quant.schemes import EXAMPLES, examples_for
from sana_cli.models.layers import DepthwiseGLU, PointwiseConv2d

pytestmark = pytest.mark.usefixtures("seeded")

SCHEMES = [*EXAMPLES, "w4a16-g32"]


def scheme(text: str) -> QuantConfig:
    config = QuantConfig.parse(text)
    assert config is not None
    return config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("text", SCHEMES)
def test_linear(text: str, bias: bool, dtype: torch.dtype) -> None:
    float_layer = nn.Linear(200, 48, bias=bias)
    layer = QuantLinear.from_weight(float_layer.weight, float_layer.bias, scheme(text))
    x = torch.randn(2, 5, 200)
    out = layer(x.to(dtype))
    assert (out.dtype, out.shape) == (dtype, (2, 5, 48))
    assert sqnr_db(float_layer(x), out) > scheme(text).scheme.least_sqnr_db


@pytest.mark.parametrize("text", examples_for("conv"))
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0)])
def test_conv(text: str, kernel: int, stride: int, padding: int) -> None:
    conv = nn.Conv2d(24, 16, kernel, stride=stride, padding=padding)
    layer = QuantConv2d.from_conv(conv, scheme(text))
    x = torch.randn(2, 24, 9, 10)
    x[1] *= 1000  # pictures have scales of their own
    for expected, out in zip(conv(x), layer(x), strict=True):
        assert sqnr_db(expected, out) > scheme(text).scheme.least_sqnr_db


def test_conv_in_4_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="w8a8 or w8a16"):
        QuantConv2d.from_conv(nn.Conv2d(4, 4, 3), scheme("w4a16-g64"))


RECIPE = Recipe(
    (
        Rule(pattern="conv_inverted", config=QuantConfig(weight_bits=8, act_bits=8)),
        Rule(pattern="conv_point", config=scheme("w4a16-g32")),
        Rule(pattern="conv_depth", config=QuantConfig(weight_bits=8, act_bits=8)),
    )
)


def test_convert_reports_every_layer() -> None:
    model = DepthwiseGLU(64, 96)
    x = torch.randn(1, 4, 5, 64)
    expected = model(x)
    reports = {r.path: r for r in quantize_(model, RECIPE, token_convs=(PointwiseConv2d,))}
    assert isinstance(model.conv_inverted, QuantLinear)
    assert isinstance(model.conv_point, QuantLinear)
    assert isinstance(model.conv_depth, nn.Conv2d), "depthwise convolutions are never quantized"
    assert "depthwise" in reports["conv_depth"].reason
    assert str(reports["conv_point"].config) == "w4a16-g32"
    assert sqnr_db(expected, model(x)) > 15


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    recipe = Recipe((*RECIPE.rules, Rule(pattern="conv_pont", config=scheme("w8a16"))))
    with pytest.raises(RecipeError, match="'conv_pont'"):
        quantize_(DepthwiseGLU(64, 96), recipe)


def test_empty_layers_take_a_quantized_state_dict() -> None:
    """What a checkpoint does: build on the meta device, swap, assign; the result is bit-equal."""
    model = DepthwiseGLU(64, 96)
    reports = quantize_(model, RECIPE, token_convs=(PointwiseConv2d,))
    with torch.device("meta"):
        empty = DepthwiseGLU(64, 96)
        swap_empty_(empty, {r.path: r.config for r in reports}, token_convs=(PointwiseConv2d,))
    empty.load_state_dict(model.state_dict(), assign=True)
    x = torch.randn(1, 3, 3, 64)
    assert torch.equal(empty(x), model(x))


def test_a_layer_that_is_not_in_the_model() -> None:
    with pytest.raises(KeyError, match="conv_pont"):
        swap_empty_(DepthwiseGLU(8, 8), {"conv_pont": scheme("w8a16")})


def test_state_holds_no_float_weight() -> None:
    layer = QuantLinear.from_weight(torch.randn(128, 256), None, scheme("w4a16-g64"))
    stored: dict[str, Tensor] = layer.state_dict()
    assert set(stored) == {"qweight", "scale"}
    total = sum(t.numel() * t.element_size() for t in stored.values())
    assert total == 128 * (256 // 2 + 2 * 256 // 64)


@pytest.mark.parametrize("smooth", [False, True], ids=["plain", "smooth"])
def test_8_bit_floats_are_multiplied_as_floats(smooth: bool) -> None:
    """The layer is the exact product of what is stored and of what its inputs become."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(shape, generator=generator) for shape in ((24, 40), (24,)))
    x = torch.randn(2, 7, 40, generator=generator) * torch.logspace(-2, 2, 7)[:, None]
    factors = torch.rand(40, generator=generator) + 0.5 if smooth else None
    config = QuantConfig(weight_bits=8, act_bits=8, float8=True, smooth=smooth)
    layer = QuantLinear.from_weight(weight, bias, config, smooth_K=factors)
    assert layer.qweight.dtype == torch.float8_e4m3fn
    scaled = x.flatten(0, 1) if factors is None else x.flatten(0, 1) * factors
    q, scale = quantize_rows_float8(scaled)
    stored = layer.qweight.double() * layer.scale.double()[:, None]
    expected = (q.double() * scale.double()[:, None]) @ stored.T + bias
    torch.testing.assert_close(layer(x).flatten(0, 1).double(), expected, rtol=1e-5, atol=1e-5)
    assert sqnr_db(x.flatten(0, 1) @ weight.T + bias, layer(x).flatten(0, 1)) > 27


def test_rows_of_8_bit_floats_reach_the_largest_one() -> None:
    q, scale = quantize_rows_float8(torch.tensor([[0.0, 0.0], [1.0, -3.0], [torch.nan, 1.0]]))
    assert q[1].float().tolist() == [144.0, -448.0]
    assert scale[0] == 0
    assert not q[0].float().any()
    assert scale[2].isnan()
