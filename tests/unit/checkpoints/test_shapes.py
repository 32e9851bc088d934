"""Names and shapes by configuration, beside those of the modules that they stand for."""

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from quant.config import QuantConfig
from quant.convert import resolve, swap_empty_
from sana_cli.bench.flops import GEMMA_2_2B
from sana_cli.checkpoints.shapes import (
    Shape,
    autoencoder_shapes,
    quantized_shapes,
    require_shapes,
    text_encoder_shapes,
    transformer_shapes,
)
from sana_cli.config.networks import DCAEConfig, Gemma2Config, TransformerConfig
from sana_cli.config.recipes import component_recipe
from sana_cli.config.variants import VARIANTS
from sana_cli.errors import ExitCode, SanaError
from sana_cli.loading.load import TOKEN_CONVS
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.gemma2 import Gemma2
from sana_cli.models.sana_transformer import SanaTransformer2D

AUTOENCODERS = {
    "published": {},
    "pixel-shuffle": {
        "downsample_block_type": "pixel_unshuffle", "upsample_block_type": "pixel_shuffle",
    },
    "no-first-stage": {
        "encoder_layers_per_block": (0, 2, 2, 3, 3, 3), "decoder_layers_per_block": (0, 3, 3, 3, 3, 3),
    },
    "narrow-heads": {"attention_head_dim": 16, "decoder_qkv_multiscales": ((), (), (), (3, 5), (), (5,))},
}  # fmt: skip
TRANSFORMERS = {name: asdict(variant.structure) for name, variant in VARIANTS.items()}
TRANSFORMERS["biased"] = {"attention_bias": True, "num_layers": 1, "mlp_ratio": 3.3}


def of_module(build: Any) -> dict[str, Shape]:
    with torch.device("meta"):
        module = build()
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer(name: str) -> None:
    config = TransformerConfig(**TRANSFORMERS[name])
    assert transformer_shapes(config) == of_module(lambda: SanaTransformer2D(config))


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_an_autoencoder(name: str) -> None:
    config = replace(DCAEConfig(), **AUTOENCODERS[name])
    assert autoencoder_shapes(config) == of_module(lambda: AutoencoderDC(config))


@pytest.mark.parametrize("bias", [False, True])
def test_a_text_encoder(bias: bool) -> None:
    config = Gemma2Config.from_dict(GEMMA_2_2B | {"attention_bias": bias})
    assert text_encoder_shapes(config) == of_module(lambda: Gemma2(config))


SMALL = replace(TransformerConfig(), num_layers=2)
PARTS: dict[str, tuple[Any, Any]] = {
    "transformer": (transformer_shapes(SMALL), lambda: SanaTransformer2D(SMALL)),
    "vae": (autoencoder_shapes(DCAEConfig()), lambda: AutoencoderDC(DCAEConfig())),
    "text_encoder": (
        text_encoder_shapes(Gemma2Config.from_dict(GEMMA_2_2B)),
        lambda: Gemma2(Gemma2Config.from_dict(GEMMA_2_2B)),
    ),
}


@pytest.mark.parametrize(
    ("part", "scheme", "extra"),
    [
        ("transformer", "w8a8", {"smooth": True}),
        ("transformer", "w8a16", {}),
        ("transformer", "w4a16-g64", {}),
        ("vae", "w8a8", {"static_act": True}),
        ("vae", "w8a16", {}),
        ("text_encoder", "w8a16", {}),
        ("text_encoder", "w4a16-g48", {}),
    ],
)
def test_a_quantized_part(part: str, scheme: str, extra: dict[str, bool]) -> None:
    """Calibration adds factors to the layers that take them."""
    shapes, build = PARTS[part]
    with torch.device("meta"):
        module = build()
        layers = {r.path: r.config for r in resolve(module, component_recipe(part, scheme))}
        for path, config in layers.items():
            takes = len(shapes[f"{path}.weight"]) == (4 if "static_act" in extra else 2)
            if config and takes and not ("static_act" in extra and ".conv_out." in path):
                layers[path] = replace(config, **extra)
        swap_empty_(module, layers, token_convs=TOKEN_CONVS)
    stored = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert quantized_shapes(shapes, layers) == stored


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("encoder.conv_in", "w4a16-g64"),
        ("encoder.conv_in", "w8a8-smooth"),
        ("encoder.down_blocks.3.0.conv_out.conv_depth", "w8a16"),
        ("encoder.down_blocks.3.0.attn.to_qkv_multiscale.0.proj_out", "w8a16"),
        ("encoder.down_blocks.3.0.attn.to_q", "w8a8-static"),
        ("encoder.down_blocks.3.0.attn.norm_out", "none"),
        ("nowhere", "none"),
    ],
)
def test_a_scheme_that_no_such_layer_has(path: str, scheme: str) -> None:
    with pytest.raises(SanaError, match=path) as caught:
        quantized_shapes(PARTS["vae"][0], {path: QuantConfig.parse(scheme)})
    assert caught.value.code == ExitCode.CHECKPOINT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a.weight": None}, "vae: missing tensor a.weight"),
        ({"b": ("F32", (1,))}, "vae: unexpected tensor b"),
        ({"a.weight": ("F16", (3, 2))}, r"a.weight has shape \[3, 2\], expected \[2, 3\]"),
        ({"a.weight": ("I8", (2, 3))}, "a.weight is stored as i8"),
    ],
)
def test_tensors_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    found = {"a.weight": ("BF16", (2, 3))} | change
    with pytest.raises(SanaError, match=message):
        require_shapes(
            {"a.weight": (2, 3)}, {n: header for n, header in found.items() if header}, "vae"
        )


OTHER_NAMES = {
    "ComfyUI": (lambda name: f"model.diffusion_model.{name}", "'model.diffusion_model.', as ComfyUI"),
    "a trainer": (lambda name: f"module.{name}", "'module.', as ComfyUI and trainers"),
    "NVIDIA": (lambda name: f"blocks.0.attn.proj.{name}", "the names of NVIDIA's original files"),
    "both": (lambda name: f"model.diffusion_model.blocks.0.attn.proj.{name}", "'model.diffusion_model.'"),
}  # fmt: skip


@pytest.mark.parametrize("program", OTHER_NAMES)
def test_tensors_under_the_names_of_another_program(program: str) -> None:
    """They are not missing, so "a file is incomplete" would be no help."""
    renamed, message = OTHER_NAMES[program]
    expected = transformer_shapes(TransformerConfig(num_layers=1))
    found = {renamed(name): ("F32", shape) for name, shape in expected.items()}
    with pytest.raises(SanaError) as caught:
        require_shapes(expected, found, "transformer")
    assert message in caught.value.message
    assert "release for diffusers" in caught.value.hint
