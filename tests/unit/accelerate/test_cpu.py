"""What makes the CPU path fast changes nothing: each short cut beside the plain way."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

from quant.backends import cpu
from quant.config import QuantConfig
from quant.layers import QuantConv2d, QuantLinear
from quant.primitives import quantize_per_token
from sana_cli.accelerate.cpu_fused_qkv import fuse_projections_, join
from sana_cli.accelerate.cpu_packed_linear import PackedLinear, is_worth_packing, pack_linears_
from sana_cli.config.networks import TransformerConfig
from sana_cli.loading import load
from sana_cli.models.dc_ae import MultiscaleLinearAttention, UpBlock
from sana_cli.models.layers import PointwiseConv2d, RMSNorm, silu_of
from sana_cli.models.sana_transformer import SanaTransformer2D

ROUNDING = 2e-6
needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch without oneDNN"
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def small_transformer() -> SanaTransformer2D:
    config = replace(
        TransformerConfig(), num_attention_heads=4, num_layers=2, num_cross_attention_heads=4,
        cross_attention_head_dim=32, cross_attention_dim=128, caption_channels=48,
    )  # fmt: skip
    model = SanaTransformer2D(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1 or parameter.shape[0] in (2, 6):
            nn.init.normal_(parameter, std=0.3)
    return model


def velocity(model: SanaTransformer2D) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    contexts = [model.encode_text(torch.randn(1, L, 48, generator=generator)) for L in (1, 7)]
    latents = torch.randn(2, 32, 3, 5, generator=generator)
    with torch.inference_mode():
        return model(latents, torch.full((2,), 500.0), contexts)


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_packed_products(bias: bool) -> None:
    for layer, shape in (
        (nn.Linear(40, 24, bias=bias), (2, 5, 40)),
        (PointwiseConv2d(40, 24, bias=bias), (2, 3, 4, 40)),
    ):
        x = torch.randn(shape)
        with torch.inference_mode():
            packed = PackedLinear(layer)
            torch.testing.assert_close(packed(x), layer(x), rtol=0, atol=ROUNDING)
            expected = F.silu(layer(x))
            torch.testing.assert_close(silu_of(packed, x), expected, rtol=0, atol=ROUNDING)
            torch.testing.assert_close(silu_of(layer, x), expected, rtol=0, atol=ROUNDING)


@needs_onednn
def test_a_packed_and_fused_transformer() -> None:
    model = small_transformer()
    expected = velocity(model)
    assert expected.std() > 0.1
    assert fuse_projections_(model) == 2
    assert pack_linears_(model) > 10
    torch.testing.assert_close(velocity(model), expected, rtol=0, atol=1e-5)


@needs_onednn
def test_a_packed_transformer_under_autocast() -> None:
    """As training measures what it has made; the product itself takes fp32 only."""
    model = small_transformer()
    expected = velocity(model)
    pack_linears_(model)
    with torch.autocast("cpu", torch.bfloat16):
        found = velocity(model).float()
    assert (found - expected).std() < 0.02 * expected.std()


def test_layers_whose_weight_is_read_stay() -> None:
    model = small_transformer()
    pack_linears_(model)
    assert type(model.proj_out) is nn.Linear
    assert model.time_embed.emb["timestep_embedder"].linear_1.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_only_fp32_is_packed(dtype: torch.dtype) -> None:
    assert pack_linears_(nn.Sequential(nn.Linear(8, 8)).to(dtype)) == 0


def test_parts_without_memory_stay() -> None:
    """A decoder is loaded without its encoder."""
    with torch.device("meta"):
        assert pack_linears_(nn.Sequential(nn.Linear(8, 8))) == 0


@pytest.mark.parametrize("scheme", ["w8a8", "w8a16", "w4a16-g32"])
def test_joined_quantized_layers_compute_the_same_values(scheme: str) -> None:
    config = QuantConfig.parse(scheme)
    assert config is not None
    layers = [QuantLinear.from_weight(torch.randn(24, 64), None, config) for _ in range(3)]
    joined = join(layers)
    assert isinstance(joined, QuantLinear)
    x = torch.randn(2, 5, 64)
    expected = torch.cat([layer(x) for layer in layers], dim=-1)
    if scheme == "w8a8":  # sums of integers: the same to the bit
        assert torch.equal(joined(x), expected)
    torch.testing.assert_close(joined(x), expected, rtol=0, atol=1e-5)


def test_layers_that_differ_are_not_joined() -> None:
    eight, four = QuantConfig(act_bits=8), QuantConfig(weight_bits=4, group_size=32)
    weight = torch.randn(24, 64)
    quantized = QuantLinear.from_weight(weight, None, eight)
    assert join([quantized, nn.Linear(64, 24), quantized]) is None
    assert join([quantized, QuantLinear.from_weight(weight, None, four)]) is None
    assert join([nn.Linear(64, 24), nn.Linear(64, 24, bias=False)]) is None
    smooth = replace(eight, smooth=True)
    factors = [torch.rand(64) + 0.5 for _ in range(2)]
    smoothed = [QuantLinear.from_weight(weight, None, smooth, smooth_K=f) for f in factors]
    assert join(smoothed) is None
    assert join([smoothed[0], smoothed[0]]) is not None


def test_a_joined_attention_of_the_autoencoder() -> None:
    attention = MultiscaleLinearAttention(64, 32, (5,)).eval().requires_grad_(False)
    x = torch.randn(1, 64, 6, 7).contiguous(memory_format=torch.channels_last)
    expected = attention(x)
    assert fuse_projections_(nn.Sequential(attention)) == 1
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("smoothed", [False, True])
def test_quantizing_tokens_in_blocks_is_the_scheme_to_the_bit(
    smoothed: bool, dtype: torch.dtype
) -> None:
    x = (torch.randn(2100, 257) * torch.logspace(-40, 30, 2100)[:, None]).to(dtype)
    assert x.numel() > cpu._BLOCK
    x[7], x[8, 1:] = 0, 0
    x[9] = -x[9].abs()
    before, smooth_K = x.clone(), torch.rand(257) if smoothed else None
    expected = quantize_per_token(x.float() * smooth_K if smoothed else x)
    found = cpu.quantize_tokens(x, smooth_K)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert torch.equal(x, before), "others still need it"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantizing_a_map_in_blocks_is_the_scheme_to_the_bit(dtype: torch.dtype) -> None:
    x = torch.randn(1, 32, 150, 150).to(dtype).contiguous(memory_format=torch.channels_last)
    before, scale = x.clone(), 0.02
    assert x.numel() > cpu._BLOCK
    expected = (x.float() / scale).round().clamp(-127, 127) + 128
    found = cpu._quantize_map(x, scale)
    assert found.dtype == torch.uint8
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found.float(), expected)
    assert torch.equal(x, before)
    assert cpu._largest(x) == x.abs().max()


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_norm_in_blocks(bias: bool, dtype: torch.dtype, inplace: bool) -> None:
    norm = RMSNorm(12, bias=bias).to(dtype)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = (torch.randn(2, 4, 5, 36) * 3).to(dtype)
    for values in (x[..., :12].contiguous(), x[..., 12:24], x[..., :12].transpose(0, 1)):
        residual = torch.randn(values.shape).to(dtype)
        for more in (None, residual):
            exact = copy.deepcopy(norm).float()
            expected = exact(values.float(), None if more is None else more.float())
            with torch.inference_mode():
                assert torch.equal(norm(values, more), norm._in_blocks(values, more, inplace=False))
                for block in (5, 30, 10**6):
                    out = norm._in_blocks(values.clone(), more, inplace=inplace, block=block)
                    assert out.dtype == dtype
                    closeness = 2e-6 if dtype == torch.float32 else 0.01
                    torch.testing.assert_close(
                        out.float(), expected.detach().float(), rtol=closeness, atol=closeness
                    )
    assert torch.equal(residual, more), "only the normed values may be overwritten"


def test_an_upsampling_of_8_bit_weights_is_folded() -> None:
    block = UpBlock(8, 4, interpolate=True)
    block.conv = QuantConv2d.from_conv(block.conv, QuantConfig())
    x = torch.randn(1, 8, 24, 24).contiguous(memory_format=torch.channels_last)
    expected = block(x)  # autograd is on: nothing is folded
    run: list[type] = []
    with (
        torch.inference_mode(),
        register_module_forward_pre_hook(lambda module, _: run.append(type(module))),
    ):
        found = block(x)
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-5)
    assert QuantConv2d not in run


@pytest.mark.parametrize(("channels", "out"), [(16, 16), (16, 8), (16, 4), (8, 12)])
def test_the_shortcut_is_added_phase_by_phase(channels: int, out: int) -> None:
    """Repeats of 4, 2, 1 and one that does not divide 4, on a map that is large enough to be folded."""
    block = UpBlock(channels, out, interpolate=True)
    x = torch.randn(1, channels, 24, 24).contiguous(memory_format=torch.channels_last)
    expected = block(x)  # autograd is on: nothing is folded
    with torch.inference_mode():
        torch.testing.assert_close(block(x), expected.detach(), rtol=0, atol=1e-5)


def test_a_verdict_is_remembered(tmp_path: Path) -> None:
    """A machine decides once, and a model is packed by what it decided."""
    verdicts, device = tmp_path / "kernels.json", torch.device("cpu")

    def packed() -> bool:
        model = nn.Sequential(nn.Linear(8, 8))
        chosen = load._pack_floats(model, device, verdicts, pytest.fail)
        assert chosen == ({"linear fp32": "native onednn"} if "linear fp32" in chosen else {})
        assert isinstance(model[0], PackedLinear) == bool(chosen)
        return bool(chosen)

    measured = packed()
    [(key, kernel)] = json.loads(verdicts.read_text()).items()
    assert kernel == ("onednn" if measured else "torch")
    for other in ("onednn", "torch"):
        verdicts.write_text(json.dumps({key: other}))
        assert packed() == (other == "onednn")


def test_a_cache_that_cannot_be_written_is_told_and_draws_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told: list[str] = []
    for _ in range(2):
        model = nn.Sequential(nn.Linear(8, 8))
        found = load._pack_floats(
            model, torch.device("cpu"), tmp_path / "file/kernels.json", told.append
        )
        assert (found, type(model[0])) == ({}, nn.Linear)
    (line,) = told
    assert "set SANA_CACHE to a folder that can be written" in line


def test_the_measurement_ends_in_a_decision() -> None:
    assert is_worth_packing() in (True, False)
