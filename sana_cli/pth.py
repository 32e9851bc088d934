"""Read NVIDIA's original `.pth` transformer files: names, fused projections, and configuration.

Only tensors are unpickled (`weights_only=True`); a file that wants to run code is refused. The key
table is that of the published converter (NVlabs/Sana, scripts/convert_sana_to_diffusers.py).
"""

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from sana_cli.config import TransformerConfig
from sana_cli.errors import ExitCode, SanaError, checkpoint_error

# Buffers of training and of a stored position table; every loader recomputes or ignores them.
_DROPPED = ("y_embedder.y_embedding", "pos_embed", "logvar_linear.weight", "logvar_linear.bias")

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

_FUSED = {".qkv.": (".to_q.", ".to_k.", ".to_v."), ".kv.": (".to_k.", ".to_v.")}

# Width -> cross-attention heads, the one thing that shapes do not tell.
_CROSS_HEADS = {1152: 16, 2240: 20}


def read_pth(path: Path) -> tuple[TransformerConfig, dict[str, Tensor]]:
    """The transformer of a `.pth` file: its configuration and tensors under published names.

    Tensors are mapped from the file. Raises SanaError for anything but a Sana transformer.
    """
    native = _unpickle(path)
    tensors: dict[str, Tensor] = {}
    try:
        for name, tensor in native.items():
            if name not in _DROPPED:
                tensors.update(_convert(name, tensor, path))
        if "time_embed.guidance_embedder.linear_1.weight" in tensors:  # Sprint has no `.emb` level
            tensors = {k.replace("time_embed.emb.", "time_embed."): v for k, v in tensors.items()}
        return _infer_config(tensors, native, path), tensors
    except (ValueError, TypeError, IndexError, RuntimeError, ZeroDivisionError) as error:
        raise checkpoint_error(
            f"{path} holds tensors of shapes that no Sana transformer has",
            hint="is this the transformer of a Sana model?",
        ) from error


def stored_precision(tensors: dict[str, Tensor]) -> str:
    """Tell "fp16" or "bf16" when the weights are stored so. Else "fp32": the file does not say what it
    was trained in, and the wrong half precision draws garbage."""
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if dtypes == {torch.float16}:
        return "fp16"
    return "bf16" if dtypes == {torch.bfloat16} else "fp32"


def _unpickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():  # about the pickle protocol of files that fail anyway
            warnings.simplefilter("ignore")
            # torch before 1.6 wrote others, which cannot be mapped.
            zipped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
            raise checkpoint_error(
                f"{path} would run code when loaded; refused",
                hint="use a file of plain tensors, best the safetensors release of the model",
            ) from error
        raise checkpoint_error(f"{path} is not a readable .pth file") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(_is_plain(*item) for item in state.items()):
        raise checkpoint_error(f"{path} holds no state_dict of tensors")
    return state


def _is_plain(name: object, value: object) -> bool:
    """A named tensor whose values lie in the file, as the published ones do."""
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.is_floating_point()
        # Not an expanded view: a file of a few bytes must not stand for gigabytes.
        and value.untyped_storage().nbytes() >= value.numel() * value.itemsize
    )


def _convert(name: str, tensor: Tensor, path: Path) -> dict[str, Tensor]:
    for pattern, replacement in _RENAMED:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            for fused, parts in _FUSED.items():
                if fused in renamed:
                    chunks = tensor.chunk(len(parts))
                    return {
                        renamed.replace(fused, part): chunk
                        for part, chunk in zip(parts, chunks, strict=True)
                    }
            return {renamed: tensor}
    raise checkpoint_error(
        f"{path}: unexpected tensor {name}", hint="is this the transformer of a Sana model?"
    )


def _infer_config(
    tensors: dict[str, Tensor], native: dict[str, Tensor], path: Path
) -> TransformerConfig:
    try:
        D, in_channels = tensors["patch_embed.proj.weight"].shape[:2]
        caption_channels = tensors["caption_projection.linear_1.weight"].shape[1]
        point = tensors["transformer_blocks.0.ff.conv_point.weight"]
    except KeyError as error:
        raise checkpoint_error(f"{path}: missing tensor {error.args[0]}") from error
    if D not in _CROSS_HEADS:
        raise SanaError(
            f"{path}: no published Sana model is {D} wide",
            hint=f"known widths: {', '.join(map(str, _CROSS_HEADS))}",
            code=ExitCode.CHECKPOINT,
        )
    layers = len({n.split(".")[1] for n in tensors if n.startswith("transformer_blocks.")})
    positions = native.get("pos_embed")
    sample_size = 32 if positions is None else round(positions.shape[1] ** 0.5)
    return TransformerConfig(
        in_channels=in_channels,
        out_channels=tensors["proj_out.weight"].shape[0] if "proj_out.weight" in tensors else 32,
        num_attention_heads=D // 32,
        num_layers=layers,
        num_cross_attention_heads=_CROSS_HEADS[D],
        cross_attention_head_dim=D // _CROSS_HEADS[D],
        cross_attention_dim=D,
        caption_channels=caption_channels,
        mlp_ratio=point.shape[1] / D,
        sample_size=sample_size,
        # Only the 2K and 4K models read positions; their published scales are 1 and 2.
        interpolation_scale={64: 1.0, 128: 2.0}.get(sample_size),
        guidance_embeds="time_embed.guidance_embedder.linear_1.weight" in tensors,
        qk_norm="rms_norm_across_heads"
        if "transformer_blocks.0.attn1.norm_q.weight" in tensors
        else None,
    )
