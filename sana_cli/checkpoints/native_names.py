"""The names of layers in NVIDIA's original files, and what the published ones call them. No torch.

The table is that of the published converter (NVlabs/Sana, scripts/convert_sana_to_diffusers.py).
"""

import re

# What programs put before the names of all tensors: ComfyUI, and trainers that wrap the model.
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "module.", "_orig_mod.", "model.")

_RENAMED = (
    (r"^x_embedder\.proj\.", "patch_embed.proj."),
    (r"^y_embedder\.y_proj\.fc([12])\.", r"caption_projection.linear_\1."),
    (r"^t_embedder\.mlp\.0\.", "time_embed.emb.timestep_embedder.linear_1."),
    (r"^t_embedder\.mlp\.2\.", "time_embed.emb.timestep_embedder.linear_2."),
    (r"^cfg_embedder\.mlp\.0\.", "time_embed.guidance_embedder.linear_1."),
    (r"^cfg_embedder\.mlp\.2\.", "time_embed.guidance_embedder.linear_2."),
    (r"^t_block\.1\.", "time_embed.linear."),
    (r"^attention_y_norm\.", "caption_norm."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"transformer_blocks.\1.attn1.to_out.0."),
    (r"^blocks\.(\d+)\.attn\.([qk])_norm\.", r"transformer_blocks.\1.attn1.norm_\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"transformer_blocks.\1.attn1.qkv."),
    (r"^blocks\.(\d+)\.cross_attn\.proj\.", r"transformer_blocks.\1.attn2.to_out.0."),
    (r"^blocks\.(\d+)\.cross_attn\.([qk])_norm\.", r"transformer_blocks.\1.attn2.norm_\2."),
    (r"^blocks\.(\d+)\.cross_attn\.q_linear\.", r"transformer_blocks.\1.attn2.to_q."),
    (r"^blocks\.(\d+)\.cross_attn\.kv_linear\.", r"transformer_blocks.\1.attn2.kv."),
    (r"^blocks\.(\d+)\.mlp\.inverted_conv\.conv\.", r"transformer_blocks.\1.ff.conv_inverted."),
    (r"^blocks\.(\d+)\.mlp\.depth_conv\.conv\.", r"transformer_blocks.\1.ff.conv_depth."),
    (r"^blocks\.(\d+)\.mlp\.point_conv\.conv\.", r"transformer_blocks.\1.ff.conv_point."),
    (r"^blocks\.(\d+)\.scale_shift_table$", r"transformer_blocks.\1.scale_shift_table"),
    (r"^final_layer\.linear\.", "proj_out."),
    (r"^final_layer\.scale_shift_table$", "scale_shift_table"),
)

# Projections in one: thirds or halves of their rows.
_FUSED = {".qkv.": (".to_q.", ".to_k.", ".to_v."), ".kv.": (".to_k.", ".to_v.")}


def published_names(name: str) -> tuple[str, ...]:
    """Return what a tensor is called in the published files; several names for one whose rows are
    theirs, in this order, and none for a name that is not in the table.
    """
    return _translated(name, _RENAMED)


def published_layers(path: str) -> tuple[str, ...]:
    """Return the same for the path of a layer, in which dots may be underscores (kohya's way)."""
    return tuple(name.rstrip(".") for name in _translated(f"{path}.", _LOOSE))


def _translated(name: str, table: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    for pattern, replacement in table:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            for fused, parts in _FUSED.items():
                if fused in renamed:
                    return tuple(renamed.replace(fused, part) for part in parts)
            return (renamed,)
    return ()


_LOOSE = tuple((pattern.replace(r"\.", "[._]"), replacement) for pattern, replacement in _RENAMED)
