"""A decoder whose convolutions run by Winograd's algorithm draws the same pictures."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from quant.config import QuantConfig
from quant.layers import QuantConv2d
from sana_cli.accelerate.cpu_winograd_conv import (
    WinogradConv2d,
    is_worth_it,
    replaceable,
    upsampled,
    use_winograd_,
)
from sana_cli.config.networks import DCAEConfig, TinyDecoderConfig
from sana_cli.decoding.exact_tiles import decode_exact
from sana_cli.loading import load
from sana_cli.models.dc_ae import Decoder, ResBlock, UpBlock, upsampled_conv
from sana_cli.models.tiny_decoder import TinyDecoder

GREY = 2 / 255  # a level of a picture's values, which are -1 to 1


def decoder(kind: str) -> nn.Module:
    """A decoder with convolutions wide enough for the algorithm, on maps that are large enough."""
    torch.manual_seed(0)
    if kind == "tiny":
        model: nn.Module = TinyDecoder(
            TinyDecoderConfig(latent_channels=32, widths=(128,) * 6, blocks=(1, 1, 1, 1, 1, 1), patch_size=1)
        )  # fmt: skip
    else:
        widths = (128,) * 6
        model = Decoder(
            replace(
                DCAEConfig(), decoder_block_out_channels=widths, encoder_block_out_channels=widths,
                decoder_layers_per_block=(1, 1, 1, 1, 1, 1), attention_head_dim=32,
            )
        )  # fmt: skip
    return model.eval().requires_grad_(False)


def quantized(model: nn.Module) -> nn.Module:
    config = QuantConfig.parse("w8a16")
    assert config is not None
    for block in model.modules():
        if isinstance(block, ResBlock):
            block.conv1 = QuantConv2d.from_conv(block.conv1, config)  # type: ignore[assignment]
            block.conv2 = QuantConv2d.from_conv(block.conv2, config)  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("kind", ["full", "full, 8-bit weights", "tiny"])
def test_the_same_picture_whole_and_in_tiles(kind: str) -> None:
    plain = decoder(kind.partition(",")[0])
    if "8-bit" in kind:
        plain = quantized(plain)
    z = torch.randn(1, 32, 2, 3)
    with torch.inference_mode():
        expected = plain(z)
        swapped = copy.deepcopy(plain)
        assert use_winograd_(swapped) >= 6
        found = swapped(z)
        tiles = decode_exact(swapped, z, tile=40)  # type: ignore[arg-type]
    assert expected.std() > 0.01
    assert not torch.equal(found, expected), "the algorithm ran"
    for picture in (found, tiles):
        torch.testing.assert_close(picture, expected, rtol=0, atol=GREY / 100)


def test_what_stays() -> None:
    """Narrow and strided layers, those of 16 bits and those with 8-bit inputs keep their way."""
    narrow = nn.Sequential(nn.Conv2d(128, 3, 3, padding=1), nn.Conv2d(128, 128, 1))
    other = nn.Sequential(
        nn.Conv2d(128, 128, 3, stride=2, padding=1), nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 3, padding=2, dilation=2), nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
    )  # fmt: skip
    half = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1)).bfloat16()
    integers = QuantConfig.parse("w8a8")
    assert integers is not None
    eight = nn.Sequential(QuantConv2d.from_conv(nn.Conv2d(128, 128, 3, padding=1), integers))
    with torch.device("meta"):
        absent = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1))
    for model in (narrow, other, half, eight, absent):
        assert list(replaceable(model)) == []
    assert use_winograd_(nn.Sequential(nn.Conv2d(128, 128, 3, padding=1))) == 1


@pytest.mark.parametrize(("channels", "out"), [(128, 128), (256, 128), (128, 160)])
def test_the_shortcut_is_added_phase_by_phase(channels: int, out: int) -> None:
    block = UpBlock(channels, out, interpolate=True).requires_grad_(False)
    x = torch.randn(1, channels, 52, 52).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = block(x)
        assert block.upsampled is upsampled_conv
        use_winograd_(block)
        assert block.upsampled is upsampled
        found = block(x)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("verdict", ["winograd", "torch"])
def test_a_verdict_is_obeyed(tmp_path: Path, verdict: str) -> None:
    verdicts, device = tmp_path / "kernels.json", torch.device("cpu")
    load._float_kernel("conv 3x3", device, verdicts, pytest.fail)
    [key] = json.loads(verdicts.read_text())
    verdicts.write_text(json.dumps({key: verdict, key.replace("conv 3x3", "linear"): "torch"}))
    model = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1))
    chosen = load._pack_floats(model, device, verdicts, pytest.fail)
    if verdict == "winograd":
        assert chosen == {"conv 3x3 fp32": "native winograd"}
        assert type(model[0]) is WinogradConv2d
    else:
        assert chosen == {}
        assert type(model[0]) is nn.Conv2d


def test_narrow_models_are_not_asked(tmp_path: Path) -> None:
    """A picture of the built-in model does not wait for a measurement that changes nothing."""
    verdicts = tmp_path / "kernels.json"
    load._pack_floats(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)), torch.device("cpu"), verdicts, pytest.fail)  # fmt: skip
    assert not any("conv" in key for key in json.loads(verdicts.read_text()))


def test_the_measurement_ends_in_a_decision() -> None:
    assert is_worth_it() in (True, False)
