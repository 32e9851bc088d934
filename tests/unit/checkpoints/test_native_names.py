"""NVIDIA's names of layers, and the published ones: each tensor of a model has one of both."""

import pytest

from sana_cli.checkpoints.native_names import published_layers, published_names
from sana_cli.checkpoints.shapes import transformer_shapes
from sana_cli.config.networks import TransformerConfig

BLOCK, PUBLISHED = "blocks.3.", "transformer_blocks.3."
NAMES = {
    "x_embedder.proj.weight": ("patch_embed.proj.weight",),
    "t_block.1.bias": ("time_embed.linear.bias",),
    f"{BLOCK}attn.qkv.weight": tuple(f"{PUBLISHED}attn1.to_{x}.weight" for x in "qkv"),
    f"{BLOCK}cross_attn.kv_linear.bias": tuple(f"{PUBLISHED}attn2.to_{x}.bias" for x in "kv"),
    f"{BLOCK}mlp.point_conv.conv.weight": (f"{PUBLISHED}ff.conv_point.weight",),
    f"{BLOCK}attn.q_norm.weight": (f"{PUBLISHED}attn1.norm_q.weight",),
    "final_layer.scale_shift_table": ("scale_shift_table",),
    "pos_embed": (),
    f"{PUBLISHED}attn1.to_q.weight": (),
}


@pytest.mark.parametrize("native", NAMES)
def test_tensors(native: str) -> None:
    known = transformer_shapes(TransformerConfig(qk_norm="rms_norm_across_heads"))
    assert published_names(native) == NAMES[native]
    assert all(name in known for name in NAMES[native])


@pytest.mark.parametrize("native", [name for name in NAMES if name.endswith(".weight")])
def test_layers_in_dots_and_underscores(native: str) -> None:
    path = native.removesuffix(".weight")
    layers = tuple(name.removesuffix(".weight") for name in NAMES[native])
    assert published_layers(path) == layers
    assert published_layers(path.replace(".", "_")) == layers
