"""Smoothing moves outliers; folds are exact; layers that gain nothing stay plain."""

import pytest
import torch
from torch import Tensor, nn

from calibration.linears import Methods, calibrate_linears
from calibration.observe import Call
from calibration.sites import by_block, find_sites, fold_
from calibration.smoothing import search_smoothing, smoothing_factors
from quant.config import QuantConfig
from quant.layers import QuantLinear
from quant.primitives import sqnr_db
from sana_cli.config.networks import TransformerConfig
from sana_cli.models.sana_transformer import SanaTransformer2D

pytestmark = pytest.mark.usefixtures("seeded")

W8A8 = QuantConfig(weight_bits=8, act_bits=8)
INT4 = QuantConfig(weight_bits=4, group_size=64)
SMOOTH_ONLY = Methods(gptq_bits=())


def outliers(M: int, K: int) -> Tensor:
    """Rows whose first four channels are 50 times as large as the others."""
    x = torch.randn(M, K)
    x[:, :4] *= 50
    return x


def test_planted_outliers_gain_6_db() -> None:
    layer = nn.Linear(256, 128).requires_grad_(False)
    seen, fresh = outliers(512, 256), outliers(512, 256)
    factors = search_smoothing(seen, seen.abs().amax(0), [layer.weight], W8A8)
    assert factors is not None
    config = QuantConfig(weight_bits=8, act_bits=8, smooth=True)
    plain = QuantLinear.from_weight(layer.weight, layer.bias, W8A8)
    smooth = QuantLinear.from_weight(layer.weight, layer.bias, config, smooth_K=factors)
    gain = sqnr_db(layer(fresh), smooth(fresh)) - sqnr_db(layer(fresh), plain(fresh))
    assert gain >= 6


def test_the_same_in_a_model() -> None:
    model = nn.Sequential(nn.Linear(256, 128))
    x = outliers(512, 256)
    gains = []
    for methods in (Methods(smooth=False, gptq_bits=()), SMOOTH_ONLY):
        found = calibrate_linears(
            model, {"0": W8A8}, [Call(lambda: model(x))], methods=methods, seed=0
        )
        gains.append(found.sqnr["0"])
    assert gains[1] - gains[0] >= 6
    assert found.layers["0"].config.smooth


def test_even_inputs_stay_plain() -> None:
    x = torch.randn(512, 128)
    assert search_smoothing(x, x.abs().amax(0), [torch.randn(64, 128)], W8A8) is None


@pytest.mark.parametrize("powers", [False, True])
def test_factors(powers: bool) -> None:
    absmax = torch.rand(64) * 30
    absmax[5] = 0
    factors = smoothing_factors(absmax, [torch.randn(8, 64)], 0.5, powers_of_two=powers)
    assert factors[5] == 1, "a channel that never fires"
    assert factors.isfinite().all()
    assert (factors > 0).all()
    if powers:
        assert torch.equal(factors.log2(), factors.log2().round())


def tiny_transformer(*, attention_bias: bool = False) -> SanaTransformer2D:
    config = TransformerConfig(
        num_attention_heads=2, num_layers=2, num_cross_attention_heads=2,
        cross_attention_head_dim=32, cross_attention_dim=64, caption_channels=48,
        attention_bias=attention_bias,
    )  # fmt: skip
    model = SanaTransformer2D(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) / max(1, parameter[0].numel()) ** 0.5
    return model


def velocity(model: SanaTransformer2D, *, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 32, 4, 5, generator=generator)
    text = torch.randn(1, tokens, 48, generator=generator)
    with torch.inference_mode():
        return model(latents, torch.tensor([300.0]), [model.encode_text(text)])


@pytest.mark.parametrize("tokens", [1, 6], ids=["one token", "several"])
@pytest.mark.parametrize("bias", [True, False])
def test_folds_change_no_bit(tokens: int, bias: bool) -> None:
    """Powers of two move between weights without rounding, for each kind of producer."""
    model = tiny_transformer(attention_bias=bias)
    before = velocity(model, tokens=tokens)
    paths = [
        f"transformer_blocks.{block}.{name}"
        for block in (0, 1)
        for name in ("attn1.to_out.0", "attn2.to_out.0", "ff.conv_point")
    ]
    for site in find_sites(paths):
        layer = model.get_submodule(site.key)
        assert site.producer is not None
        factors = torch.exp2(torch.randint(-3, 4, (layer.weight.shape[1],)).float())
        fold_(model.get_submodule(site.producer), factors)
        shape = (1, -1) + (1,) * (layer.weight.ndim - 2)
        layer.weight.data = layer.weight / factors.view(shape)
    assert torch.equal(velocity(model, tokens=tokens), before)


def test_calibration_changes_nothing_that_the_float_model_computes() -> None:
    model = tiny_transformer()
    before = velocity(model, tokens=6)
    paths = [
        path
        for path, layer in model.named_modules()
        if path.startswith("transformer_blocks") and isinstance(layer, nn.Linear)
    ] + [f"transformer_blocks.{b}.ff.conv_{kind}" for b in (0, 1) for kind in ("inverted", "point")]
    configs = {path: W8A8 for path in paths if not path.endswith(("attn2.to_k", "attn2.to_v"))}
    value = model.transformer_blocks[0].ff.conv_depth  # type: ignore[union-attr]
    value.weight.data[:4] *= 64  # type: ignore[union-attr,operator,index]
    before = velocity(model, tokens=6)
    calls = [Call(lambda: velocity(model, tokens=6))]
    found = calibrate_linears(model, configs, calls, methods=SMOOTH_ONLY, seed=0)
    assert "transformer_blocks.0.ff.conv_depth.weight" in found.folded
    assert not found.layers["transformer_blocks.0.ff.conv_point"].config.smooth
    assert torch.equal(velocity(model, tokens=6), before)


def test_layers_with_one_input_share_factors() -> None:
    model = tiny_transformer()
    names = ("to_q", "to_k", "to_v")
    configs = {f"transformer_blocks.0.attn1.{name}": W8A8 for name in names}
    scale = model.transformer_blocks[0].scale_shift_table  # type: ignore[union-attr]
    scale.data[:2, :3] = 60  # type: ignore[union-attr,operator,index]
    found = calibrate_linears(
        model, configs, [Call(lambda: velocity(model, tokens=6))], methods=SMOOTH_ONLY, seed=0
    )
    q, k, v = (found.layers[path].smooth for path in configs)
    assert q is not None
    assert torch.equal(q, k)  # type: ignore[arg-type]
    assert torch.equal(q, v)  # type: ignore[arg-type]


def test_sites() -> None:
    names = [
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "attn2.to_q",
        "ff.conv_point",
    ]
    sites = find_sites([f"transformer_blocks.{b}.{name}" for b in (0, 1) for name in names])
    assert [len(site.paths) for site in sites] == [3, 1, 1, 1] * 2
    assert sites[1].producer == "transformer_blocks.0.attn1.to_v"
    assert sites[3].producer == "transformer_blocks.0.ff.conv_depth"
    assert [len(block) for block in by_block(sites)] == [4, 4]


def test_memory_limit_changes_no_result() -> None:
    """One block at a time, or all at once: the float model is what is observed."""
    model = tiny_transformer()
    configs = {
        f"transformer_blocks.{b}.{name}": INT4
        for b in (0, 1)
        for name in ("attn1.to_q", "attn1.to_out.0", "ff.conv_inverted", "ff.conv_point")
    }
    calls = [Call(lambda: velocity(model, tokens=6))]
    results = [
        calibrate_linears(
            model, configs, calls, methods=Methods(smooth=False), seed=0, memory_limit=limit
        )
        for limit in (1, 2**30)
    ]
    for path in configs:
        one, other = (result.layers[path] for result in results)
        assert torch.equal(one.qweight, other.qweight), path
