"""The fused decoder against the plain one, whole and in exact tiles."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from quant.config import QuantConfig
from quant.layers import QuantLinear
from sana_cli.accelerate.cuda.decoder import fuse_decoder
from sana_cli.accelerate.cuda.kernels import REFERENCE, TRITON
from sana_cli.accelerate.cuda.trial import relative_error
from sana_cli.decoding.exact_tiles import decode_exact
from sana_cli.models.dc_ae import AutoencoderDC
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
def test_a_wrong_decoder_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import sana_cli.accelerate.cuda.decoder as module

    vae = autoencoder()
    expected = vae.decode(latents())
    norm = module._norm
    monkeypatch.setattr(module, "_norm", lambda *args, **rest: 1.5 * norm(*args, **rest))
    for _ in range(2):  # the second time from the file
        ok, notices = fused(vae, verdicts=tmp_path / "verdicts.json")
        assert not ok
        assert len(notices) == 1
        assert notices[0].startswith("the fused decoder is wrong by ")
        assert torch.equal(vae.decode(latents()), expected)


def on_kernels() -> float:
    """In the interpreter's process: one fused block of each kind."""
    import sana_cli.accelerate.cuda.decoder as module

    with torch.inference_mode():
        vae = autoencoder()
        stages = vae.decoder.up_blocks
        x, y = torch.randn(1, 16, 3, 2), torch.randn(1, 32, 6, 6)
        expected = [stages[0][1](x), stages[2][0](y)]
        module._replace_methods(vae, TRITON, torch.float32)
        return max(map(relative_error, [stages[0][1](x), stages[2][0](y)], expected))


def test_on_kernels(interpreted: Callable[..., Any]) -> None:
    assert interpreted(on_kernels) < 1e-5
