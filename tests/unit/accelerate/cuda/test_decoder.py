"""The fused decoder against the plain one, whole and in exact tiles."""

import gc
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.launches import LaunchCounter
from quant.backends import cuda
from quant.backends.verdicts import remembered
from quant.config import QuantConfig
from quant.layers import QuantConv2d, QuantLinear
from sana_cli.accelerate.cuda.decoder import _replace_methods, fuse_decoder
from sana_cli.accelerate.cuda.kernels import NAMES, REFERENCE, TRITON, Kernels
from sana_cli.accelerate.cuda.trial import relative_error
from sana_cli.decoding.exact_tiles import decode_exact
from sana_cli.models.dc_ae import AutoencoderDC, ResBlock, UpBlock
from tests.rehearsal.device import CUDA, Device
from tests.unit.accelerate.cuda.models import autoencoder


def fused(vae: AutoencoderDC, **options: Any) -> tuple[bool, list[str]]:
    notices: list[str] = []
    options = {"candidates": REFERENCE} | options
    return fuse_decoder(vae, notice=notices.append, **options), notices


def latents(side: int = 8) -> torch.Tensor:
    return torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("act", ["relu", "silu"])
@pytest.mark.parametrize("scheme", ["none", "w8a16"])
@pytest.mark.parametrize("side", [8, 4], ids=["linear attention", "quadratic"])
@torch.inference_mode()
def test_the_same_picture(scheme: str, act: str, side: int) -> None:
    vae = autoencoder(scheme, decoder_conv_act_fn=act)
    expected = vae.decode(latents(side))
    assert fused(vae) == (True, [])
    assert relative_error(vae.decode(latents(side)), expected) < 1e-5


@torch.inference_mode()
def test_a_quantized_decoder_of_16_bits_keeps_its_scales() -> None:
    """Kernels take fp32 scales; a module that is cast after it was quantized has others."""
    vae = autoencoder("w8a8", dtype=torch.bfloat16)
    scales = [b for name, b in vae.named_buffers() if name.endswith("scale")]
    assert scales
    assert {scale.dtype for scale in scales} == {torch.float32}
    assert fused(vae) == (True, [])


@torch.inference_mode()
def test_exact_tiles_run_the_same_methods() -> None:
    vae = autoencoder()
    expected = vae.decode(latents(16))
    fused(vae)
    tiled = decode_exact(vae.decoder, latents(16), tile=32)
    assert relative_error(tiled, expected) < 1e-5


@torch.inference_mode()
def test_int8_products_of_the_feed_forward() -> None:
    vae = autoencoder()
    ff = vae.decoder.up_blocks[2][0].conv_out
    for name in ("conv_inverted", "conv_point"):
        layer = getattr(ff, name)
        config = QuantConfig(weight_bits=8, act_bits=8)
        setattr(ff, name, QuantLinear.from_weight(layer.weight, layer.bias, config))
    expected = vae.decode(latents())
    assert fused(vae) == (True, [])
    assert relative_error(vae.decode(latents()), expected) < 5e-3


@torch.inference_mode()
def test_a_decoder_is_freed_at_once() -> None:
    vae = autoencoder()
    fused(vae)
    vae.decode(latents())
    weight = weakref.ref(vae.decoder.up_blocks[2][0].attn.to_q)
    gc.disable()
    try:
        del vae
        assert weight() is None
    finally:
        gc.enable()


@torch.inference_mode()
def test_a_wrong_decoder_is_not_used(tmp_path: Any) -> None:
    """By kernels that are wrong in what their trials do not show: there norms have no bias."""

    def norm(x: torch.Tensor, weight: torch.Tensor, **options: Any) -> torch.Tensor:
        factor = 1.0 if options.get("bias") is None else 1.5
        return factor * REFERENCE.rms_norm(x, weight, **options)

    vae = autoencoder()
    expected = vae.decode(latents())
    wrong = replace(REFERENCE, rms_norm=norm)
    for candidates in (wrong, REFERENCE):  # the second time from the file
        ok, notices = fused(vae, verdicts=tmp_path / "verdicts.json", candidates=candidates)
        assert not ok
        assert len(notices) == 1
        assert notices[0].startswith("the fused decoder is wrong by ")
        assert torch.equal(vae.decode(latents()), expected)


def on_kernels(scheme: str) -> float:
    """In the interpreter's process: one fused block of each kind."""
    import sana_cli.accelerate.cuda.decoder as module

    with torch.inference_mode():
        vae = autoencoder(scheme, upsample_block_type="interpolate")
        stages = vae.decoder.up_blocks
        x, y, z = torch.randn(1, 16, 3, 2), torch.randn(1, 32, 6, 6), torch.randn(1, 32, 3, 3)
        expected = [stages[0][1](x), stages[2][0](y), stages[0][0](z)]
        packed(vae)
        module._replace_methods(vae, TRITON, torch.float32, folds=True)
        results = [stages[0][1](x), stages[2][0](y), stages[0][0](z)]
        return max(map(relative_error, results, expected))


@pytest.mark.parametrize("scheme", ["none", "w8a8", "w8a16"])
def test_on_kernels(interpreted: Callable[..., Any], scheme: str) -> None:
    assert interpreted(on_kernels, scheme) < (5e-3 if scheme == "w8a8" else 1e-5)


def packed(vae: AutoencoderDC) -> None:
    """Give w8a8 convolutions what loading on a device gives them."""
    for layer in vae.decoder.modules():
        if isinstance(layer, QuantConv2d) and layer.config.scheme.name == "w8a8":
            with suppress(NotImplementedError):
                weight = cuda._conv_pack(layer)
                layer.attach(cuda._conv_run, weight, free=False)


@pytest.mark.parametrize("upsampling", ["interpolate", "pixel_shuffle"])
@torch.inference_mode()
def test_int8_convolutions(gpu: Device, upsampling: str) -> None:
    """Whole, and in tiles that share the scales of the picture, as plain layers do."""
    vae = autoencoder("w8a8", upsample_block_type=upsampling)
    expected = vae.decode(latents(16))
    in_tiles = decode_exact(vae.decoder, latents(16), tile=32)
    vae.to(CUDA)
    packed(vae)
    given = latents(16).to(CUDA)
    assert fused(vae, candidates=TRITON) == (True, [])
    assert relative_error(vae.decode(given).cpu(), expected) < 5e-3
    assert relative_error(decode_exact(vae.decoder, given, tile=32).cpu(), in_tiles) < 5e-3
    block = next(m for m in vae.decoder.modules() if isinstance(m, ResBlock))
    assert "forward" in vars(block)


@pytest.mark.parametrize("scheme", ["none", "w8a8"])
@torch.inference_mode()
def test_launches_of_a_residual_block(scheme: str) -> None:
    """Convolutions of floats add bias and SiLU in one pass; of integers, in the product."""
    vae = autoencoder(scheme)
    packed(vae)
    counter = LaunchCounter()
    kernels = Kernels(**{name: counter.as_one(name, getattr(REFERENCE, name)) for name in NAMES})
    _replace_methods(vae, kernels, torch.float32, folds=True)
    block = next(m for m in vae.decoder.modules() if isinstance(m, ResBlock))
    x = torch.randn(1, 16, 6, 6).to(memory_format=torch.channels_last)
    with counter:
        block(x)
    expected = {
        "none": {"conv2d": 2, "bias_activation": 1, "rms_norm": 1},
        "w8a8": {"quantize_map": 2, "conv3x3_w8a8": 2, "new_zeros": 2, "rms_norm": 1},
    }
    assert dict(counter.counts) == expected[scheme]


@pytest.mark.parametrize("faster", ["folded", "whole"])
@torch.inference_mode()
def test_up_sampling_is_folded_where_that_was_measured(faster: str, tmp_path: Path) -> None:
    path = tmp_path / "verdicts.json"
    cpu = torch.device("cpu")
    remembered("up-sampling torch.float32", cpu, lambda: faster, verdicts=path)
    vae = autoencoder(upsample_block_type="interpolate")
    expected = vae.decode(latents())
    assert fused(vae, verdicts=path) == (True, [])
    block = next(m for m in vae.decoder.modules() if isinstance(m, UpBlock))
    assert ("forward" in vars(block)) == (faster == "folded")
    assert relative_error(vae.decode(latents()), expected) < 1e-5
