"""The work model counts what torch counts, on modules without memory, and what was computed by hand before."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sana_cli.bench import flops
from sana_cli.bench.devices import DEVICES
from sana_cli.bench.results import floor_seconds
from sana_cli.config.networks import (
    DCAEConfig,
    Gemma2Config,
    TinyDecoderConfig,
    TransformerConfig,
)
from sana_cli.config.variants import VARIANTS
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.gemma2 import Gemma2
from sana_cli.models.sana_transformer import SanaTransformer2D
from sana_cli.models.tiny_decoder import TinyDecoder


def transformer_of(name: str) -> TransformerConfig:
    return TransformerConfig(**asdict(VARIANTS[name].structure))


def counted(run: Any) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["sana-0.6b", "sana-1.6b", "sprint-0.6b"])
@pytest.mark.parametrize("tokens", [[300], [1, 40]], ids=["one branch", "guided"])
def test_a_step_and_its_text(name: str, tokens: list[int]) -> None:
    config = replace(transformer_of(name), num_layers=3)  # as wide as published
    with torch.device("meta"):
        model = SanaTransformer2D(config)
        texts = [torch.empty(1, L, config.caption_channels) for L in tokens]
        B = len(tokens)
        x, t = torch.empty(B, config.in_channels, 16, 24), torch.empty(B)
    guidance = t[:1] if config.guidance_embeds else None
    contexts = [model.encode_text(text) for text in texts]
    expected = counted(lambda: [model.encode_text(text) for text in texts])
    assert flops.text_keys(config, tokens).flops == expected
    expected = counted(lambda: model(x, t, contexts, guidance))
    found = flops.denoise_step(config, height=512, width=768, text_tokens=tokens).flops
    # A Sprint's guidance is embedded once, not per row; three layers stand beside it.
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("upsample", ["interpolate", "pixel_shuffle"])
def test_the_decoder(upsample: str) -> None:
    config = DCAEConfig(upsample_block_type=upsample)
    with torch.device("meta"):
        vae, latents = AutoencoderDC(config), torch.empty(1, 32, 8, 12)
    expected = counted(lambda: vae.decode(latents))
    assert flops.decode(config, height=256, width=384).flops == expected


def test_folding_saves_five_ninths_of_the_convolutions_behind_upsampling() -> None:
    """Counted by running: only real memory on a CPU folds."""
    config = DCAEConfig(
        decoder_block_out_channels=(8, 8, 16, 16, 32, 32), decoder_layers_per_block=(1,) * 6,
        attention_head_dim=8,
    )  # fmt: skip
    vae = AutoencoderDC(config).eval()
    latents = torch.randn(1, 32, 24, 24)  # large enough for every up-sampling to be folded
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        vae.decode(latents.contiguous(memory_format=torch.channels_last))
    found = flops.decode(config, height=768, width=768, folded=True).flops
    # The phases overlap by a pixel.
    assert found == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_gemma() -> None:
    config = {**flops.GEMMA_2_2B, "num_hidden_layers": 3, "vocab_size": 100}
    with torch.device("meta"):
        model = Gemma2(Gemma2Config.from_dict(config))
    expected = counted(lambda: model(torch.empty(1, 77, dtype=torch.long)))
    assert flops.encode_texts(config, [77]).flops == pytest.approx(expected, rel=1e-4)


def test_known_numbers() -> None:
    """Sana-0.6B at 1024 pixels: 1.03 TFLOP of products a pass, 8.4 TFLOP to decode (computed by hand before)."""
    step = flops.denoise_step(
        transformer_of("sana-0.6b"), height=1024, width=1024, text_tokens=[300], kind=flops.BF16
    )
    assert step.flops == pytest.approx(1.03e12, rel=0.05)
    assert flops.decode(DCAEConfig(), height=1024, width=1024).flops == pytest.approx(
        8.4e12, rel=0.01
    )
    assert len(flops.ENGINE_BLOCK) <= 12
    peaks = {"bf16": DEVICES["rtx-4090"].bf16, "copy": DEVICES["rtx-4090"].bandwidth, "fp32": 1.0}
    # 40 passes (20 steps, both branches) at fp16 with fp32 accumulation on a 4090.
    assert 40 * floor_seconds(step, flops.BF16, peaks) == pytest.approx(0.25, rel=0.05)


def test_the_table_of_operations() -> None:
    """docs/performance.md, to the digits that it has."""
    at = {"height": 1024, "width": 1024}
    table = {
        "a pass of the Linear-DiT": flops.denoise_step(
            transformer_of("sana-0.6b"), **at, text_tokens=[300], kind=flops.BF16
        ),
        "DC-AE decoder, as published": flops.decode(DCAEConfig(), **at),
        "DC-AE decoder, convolutions": flops.decode(DCAEConfig(), **at, folded=True),
        "Gemma-2-2b, 259 tokens": flops.encode_texts(flops.GEMMA_2_2B, [259]),
    }
    written = (Path(__file__).parents[3] / "docs/performance.md").read_text(encoding="utf-8")
    for name, counted in table.items():
        assert re.search(rf"^\| {name}.* \| {counted.flops / 1e12:.2f} \|$", written, re.MULTILINE)


def test_int8_moves_less_and_batches_add_up() -> None:
    config = transformer_of("sana-0.6b")
    one = flops.denoise_step(config, height=512, width=512, text_tokens=[40])
    two = flops.denoise_step(config, height=512, width=512, text_tokens=[40], batch=2)
    assert two.flops == 2 * one.flops
    assert one.bytes < two.bytes < 2 * one.bytes  # weights are read once
    small = flops.denoise_step(config, height=512, width=512, text_tokens=[40], kind=flops.INT8)
    assert small.bytes < 0.6 * one.bytes


@pytest.mark.parametrize(
    "sizes",
    [{}, {"widths": (64, 32, 16, 16), "blocks": (2, 1, 0, 1), "patch_size": 4}],
    ids=["taesana", "patches"],
)
def test_the_tiny_decoder(sizes: dict[str, Any]) -> None:
    """As torch counts the network itself; folding leaves 16 products of 36 after each up-sampling."""
    config = TinyDecoderConfig(**sizes)
    with torch.device("meta"):
        decoder = TinyDecoder(config)
        latents = torch.randn(2, config.latent_channels, 2, 3)
    expected = counted(lambda: decoder(latents))
    assert flops.decode(config, height=64, width=96, batch=2).flops == expected
    assert flops.decode(config, height=64, width=96, batch=2, folded=True).flops < expected
