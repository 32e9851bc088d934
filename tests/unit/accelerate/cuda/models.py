"""Tiny random models and what a step gives them."""

from dataclasses import replace
from typing import Any

import torch

from quant.convert import quantize_
from quant.layers import QuantLinear
from sana_cli.config.choices import ControlOrder
from sana_cli.config.networks import ControlNetConfig, DCAEConfig, TransformerConfig
from sana_cli.config.recipes import component_recipe
from sana_cli.loading.load import TOKEN_CONVS
from sana_cli.models.controlnet import ActiveControl, SanaControlNet
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext

CAPTION = 12


def transformer(
    scheme: str = "none",
    *,
    dtype: torch.dtype = torch.float32,
    layers: int = 2,
    smooth: bool = False,
    **config: object,
) -> SanaTransformer2D:
    """Two heads of 32, a feed-forward of 32, lively values."""
    structure: dict[str, object] = {
        "num_layers": layers, "num_attention_heads": 2, "attention_head_dim": 32,
        "num_cross_attention_heads": 4, "cross_attention_head_dim": 16, "cross_attention_dim": 64,
        "caption_channels": CAPTION, "mlp_ratio": 0.5, "in_channels": 4, "out_channels": 4,
        "sample_size": 4,
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    model = SanaTransformer2D(TransformerConfig(**(structure | config))).requires_grad_(False)
    for name, parameter in model.named_parameters():
        wide = parameter.ndim > 1 and "table" not in name
        scale = 0.7 / parameter[0].numel() ** 0.5 if wide else 0.3
        centre = 1.0 if "norm" in name else 0.0
        parameter.normal_(mean=centre, std=scale, generator=generator)
    model = model.to(dtype).eval()
    if scheme != "none":
        quantize_(model, component_recipe("transformer", scheme), token_convs=TOKEN_CONVS)
    if smooth:
        smooth_(model)
    return model


def smooth_(model: SanaTransformer2D) -> None:
    """Factors as calibration stores them: one for layers with one input."""
    for i, block in enumerate(model.transformer_blocks):
        sites = [
            [block.attn1.to_q, block.attn1.to_k, block.attn1.to_v], [block.attn1.to_out[0]],
            [block.attn2.to_q], [block.ff.conv_inverted], [block.ff.conv_point],
        ]  # fmt: skip
        for site in sites:
            factors = torch.rand(site[0].in_features) + 0.5
            for layer in site:
                assert isinstance(layer, QuantLinear)
                layer.smooth = factors.clone() * (1 + i)


def autoencoder(
    scheme: str = "none", *, dtype: torch.dtype = torch.float32, **config: Any
) -> AutoencoderDC:
    """Three stages: two of convolutions, one with attention over several scales."""
    structure: dict[str, Any] = {
        "latent_channels": 4, "encoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (16, 32, 32), "decoder_block_out_channels": (16, 32, 32),
        "encoder_layers_per_block": (1, 1, 1), "decoder_layers_per_block": (1, 1, 1),
        "encoder_qkv_multiscales": ((), (), (5,)), "decoder_qkv_multiscales": ((), (), (5,)),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    vae = AutoencoderDC(DCAEConfig(**(structure | config))).requires_grad_(False)
    for name, parameter in vae.named_parameters():
        wide = parameter.ndim > 1
        scale = 0.7 / parameter[0].numel() ** 0.5 if wide else 0.2
        parameter.normal_(
            mean=1.0 if "norm" in name and "weight" in name else 0.0, std=scale, generator=generator
        )
    vae = vae.to(dtype)  # not afterwards: scales stay fp32
    if scheme != "none":
        quantize_(vae, component_recipe("vae", scheme), token_convs=TOKEN_CONVS)
    return vae.eval()


def inputs(
    model: SanaTransformer2D, lengths: tuple[int, ...] = (1, 5), *, h: int = 3, w: int = 4
) -> tuple[torch.Tensor, list[TextContext]]:
    """Latents of a batch of one picture a context, and contexts of so many text tokens."""
    generator = torch.Generator().manual_seed(1)
    dtype = model.proj_out.weight.dtype
    contexts = [
        model.encode_text(torch.randn(1, L, CAPTION, generator=generator).to(dtype))
        for L in lengths
    ]
    latents = torch.randn(len(lengths), 4, h, w, generator=generator)
    return latents.to(dtype), contexts


def controlnet(
    base: SanaTransformer2D, order: ControlOrder, scheme: str = "none", *, layers: int = 2
) -> SanaControlNet:
    """A branch of a base's first blocks, with lively values of its own."""
    config = ControlNetConfig(blocks=replace(base.config, num_layers=layers), order=order)
    generator = torch.Generator().manual_seed(5)
    net = SanaControlNet(config).requires_grad_(False)
    for name, parameter in net.named_parameters():
        wide = parameter.ndim > 1 and "table" not in name
        scale = 0.7 / parameter[0].numel() ** 0.5 if wide else 0.3
        parameter.normal_(mean=1.0 if "norm" in name else 0.0, std=scale, generator=generator)
    net = net.to(base.proj_out.weight.dtype).eval()
    if scheme != "none":
        quantize_(net, component_recipe("controlnet", scheme), token_convs=TOKEN_CONVS)
    return net


def controlled_inputs(
    base: SanaTransformer2D, net: SanaControlNet, *, seed: int, scale: float, h: int = 3
) -> tuple[torch.Tensor, list[TextContext], ActiveControl]:
    """Latents and contexts of both branches, and a drawing to follow."""
    generator = torch.Generator().manual_seed(seed)
    dtype = base.proj_out.weight.dtype
    contexts = []
    for length in (1, 5):
        embeds = torch.randn(1, length, CAPTION, generator=generator).to(dtype)
        contexts.append(replace(base.encode_text(embeds), control=net.encode_text(embeds)))
    latents = torch.randn(2, 4, h, 4, generator=generator).to(dtype)
    tokens = net.encode_control(torch.randn(1, 4, h, 4, generator=generator))
    return (
        latents,
        contexts,
        ActiveControl(net=net, tokens=tokens, scale=scale, order=net.config.order),
    )
