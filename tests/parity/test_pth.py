"""NVIDIA's original `.pth` layout: written by inverting the published key table, read back to diffusers' tensors."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sana_cli.checkpoints.pth import read_pth
from sana_cli.checkpoints.shapes import controlnet_shapes
from sana_cli.config.networks import TransformerConfig
from sana_cli.models.sana_transformer import SanaTransformer2D

# D width of the transformer

# diffusers -> native, from the published converter. The two fused projections are joined below.
TABLE = (
    (r"patch_embed\.proj\.", "x_embedder.proj."),
    (r"caption_projection\.linear_([12])\.", r"y_embedder.y_proj.fc\1."),
    (r"time_embed\.(?:emb\.)?timestep_embedder\.linear_1\.", "t_embedder.mlp.0."),
    (r"time_embed\.(?:emb\.)?timestep_embedder\.linear_2\.", "t_embedder.mlp.2."),
    (r"time_embed\.guidance_embedder\.linear_1\.", "cfg_embedder.mlp.0."),
    (r"time_embed\.guidance_embedder\.linear_2\.", "cfg_embedder.mlp.2."),
    (r"time_embed\.linear\.", "t_block.1."),
    (r"caption_norm\.", "attention_y_norm."),
    (r"transformer_blocks\.(\d+)\.attn1\.norm_([qk])\.", r"blocks.\1.attn.\2_norm."),
    (r"transformer_blocks\.(\d+)\.attn1\.to_out\.0\.", r"blocks.\1.attn.proj."),
    (r"transformer_blocks\.(\d+)\.attn2\.norm_([qk])\.", r"blocks.\1.cross_attn.\2_norm."),
    (r"transformer_blocks\.(\d+)\.attn2\.to_q\.", r"blocks.\1.cross_attn.q_linear."),
    (r"transformer_blocks\.(\d+)\.attn2\.to_out\.0\.", r"blocks.\1.cross_attn.proj."),
    (r"transformer_blocks\.(\d+)\.ff\.conv_inverted\.", r"blocks.\1.mlp.inverted_conv.conv."),
    (r"transformer_blocks\.(\d+)\.ff\.conv_depth\.", r"blocks.\1.mlp.depth_conv.conv."),
    (r"transformer_blocks\.(\d+)\.ff\.conv_point\.", r"blocks.\1.mlp.point_conv.conv."),
    (r"transformer_blocks\.(\d+)\.scale_shift_table", r"blocks.\1.scale_shift_table"),
    (r"proj_out\.", "final_layer.linear."),
    (r"scale_shift_table", "final_layer.scale_shift_table"),
)
FUSED = {
    "attn1.to_q.weight": ("attn1", "qkv", ("q", "k", "v")),
    "attn2.to_k.weight": ("attn2", "kv_linear", ("k", "v")),
    "attn2.to_k.bias": ("attn2", "kv_linear", ("k", "v")),
}


def to_native(state: dict[str, Tensor], layers: int, positions: int | None) -> dict[str, Tensor]:
    """The tensors of a diffusers transformer as NVIDIA's training code would have saved them."""
    rest = dict(state)
    native: dict[str, Tensor] = {}
    for block in range(layers):
        for example, (attention, fused, parts) in FUSED.items():
            kind = example.rsplit(".", 1)[1]
            prefix = f"transformer_blocks.{block}.{attention}"
            joined = torch.cat([rest.pop(f"{prefix}.to_{part}.{kind}") for part in parts])
            name = "attn" if attention == "attn1" else "cross_attn"
            native[f"blocks.{block}.{name}.{fused}.{kind}"] = joined
    for name, tensor in rest.items():
        for pattern, replacement in TABLE:
            renamed, count = re.subn(f"^{pattern}", replacement, name)
            if count:
                native[renamed] = tensor
                break
        else:
            raise AssertionError(f"{name} is not in the table")
    D = state["proj_out.weight"].shape[1]
    # What training leaves behind and every loader drops.
    native["y_embedder.y_embedding"] = torch.randn(300, 2304)
    native["logvar_linear.weight"] = torch.randn(1, D)
    native["logvar_linear.bias"] = torch.randn(1)
    if positions is not None:
        native["pos_embed"] = torch.zeros(1, positions**2, D, dtype=torch.bfloat16)
    return native


WIDTHS = {
    1152: {"num_attention_heads": 36, "num_cross_attention_heads": 16, "cross_attention_head_dim": 72},
    2240: {"num_attention_heads": 70, "num_cross_attention_heads": 20, "cross_attention_head_dim": 112},
}  # fmt: skip
QK_NORM = {"qk_norm": "rms_norm_across_heads"}

CASES: dict[str, tuple[int, int, dict[str, Any], torch.dtype, int | None]] = {
    # width, layers, further configuration, dtype, side of pos_embed
    "sana_0.6b": (1152, 2, {}, torch.float32, 32),
    "sana_0.6b_512": (1152, 1, {"sample_size": 16}, torch.float16, 16),
    "without_pos_embed": (1152, 1, {}, torch.float32, None),
    "2k": (1152, 1, {"sample_size": 64, "interpolation_scale": 1.0}, torch.bfloat16, 64),
    "4k": (1152, 1, {"sample_size": 128, "interpolation_scale": 2.0}, torch.bfloat16, 128),
    "sana_1.5": (1152, 2, QK_NORM, torch.bfloat16, 32),
    "sprint_1.6b": (2240, 1, QK_NORM | {"guidance_embeds": True}, torch.bfloat16, 32),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Emptied at once: these files are large, and pytest keeps the folders of three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    ("case", "wrapped"),
    [*((case, True) for case in CASES), ("sana_0.6b_512", False)],
    ids=[*CASES, "bare_state_dict"],
)
def test_pth_holds_what_the_diffusers_file_holds(
    reference: ModuleType, folder: Path, case: str, wrapped: bool
) -> None:
    width, layers, further, dtype, positions = CASES[case]
    config = {**WIDTHS[width], "cross_attention_dim": width, "num_layers": layers, **further}
    with torch.device("meta"):
        transformer = reference.SanaTransformer2DModel(**{**config, "interpolation_scale": None})
    reference.enliven(transformer.to_empty(device="cpu"), 9).to(dtype)
    transformer.save_pretrained(folder / "transformer")
    theirs = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")

    native = to_native(transformer.state_dict(), layers, positions)
    torch.save({"state_dict": native, "epoch": 3} if wrapped else native, folder / "sana.pth")
    original = read_pth(folder / "sana.pth")
    parsed, ours = original.config, original.transformer

    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name
    assert parsed == TransformerConfig.from_dict(config), (
        "the configuration follows from the tensors"
    )
    with torch.device("meta"):
        model = SanaTransformer2D(parsed)
    model.load_state_dict(ours, strict=True, assign=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_pth_with_a_controlnet(reference: ModuleType, folder: Path, dtype: torch.dtype) -> None:
    """NVIDIA's files hold the whole base and the branch, whose embedders are the base's; the order is that of training."""
    config = {**WIDTHS[1152], "cross_attention_dim": 1152, "num_layers": 2}
    with torch.device("meta"):
        transformer = reference.SanaTransformer2DModel(**config)
    reference.enliven(transformer.to_empty(device="cpu"), 9).to(dtype)
    net = reference.lively_controlnet(transformer, 1, 5).to(dtype)
    for name, tensor in transformer.state_dict().items():
        if name.startswith(("patch_embed", "time_embed", "caption_projection", "caption_norm")):
            net.state_dict()[name].copy_(tensor)
    branch = net.state_dict()

    native = to_native(transformer.state_dict(), 2, 32)
    blocks = {name: t for name, t in branch.items() if name.startswith("transformer_blocks.")}
    copied = to_native(blocks | {"proj_out.weight": torch.zeros(32, 1152)}, 1, None)
    for name, tensor in copied.items():
        if name.startswith("blocks."):
            native[re.sub(r"^blocks\.(\d+)\.", r"controlnet.\1.copied_block.", name)] = tensor
    for kind in ("weight", "bias"):
        native[f"controlnet.0.before_proj.{kind}"] = branch[f"input_block.{kind}"]
        native[f"controlnet.0.after_proj.{kind}"] = branch[f"controlnet_blocks.0.{kind}"]
    torch.save({"state_dict": native}, folder / "sana.pth")

    original = read_pth(folder / "sana.pth")
    assert set(original.controlnet) == set(branch)
    assert all(torch.equal(original.controlnet[name], tensor) for name, tensor in branch.items())
    assert original.transformer.keys() == transformer.state_dict().keys()
    assert original.controlnet_config is not None
    assert original.controlnet_config.order == "trained"
    assert original.controlnet_config.blocks.num_layers == 1
    assert set(controlnet_shapes(original.controlnet_config)) == set(branch)
