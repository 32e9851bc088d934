"""The built-in few-step model: a transformer of 8-bit rows in the package, unpacked once next to the built-in model's parts.

Only its transformer is its own; text encoder, tokenizer and autoencoder are the built-in model's. What is unpacked lies
in the cache, in a folder named by the digest of what it was made from. No torch.
"""

import os
import shutil
import tempfile
from pathlib import Path

from quant.manifest import sha256_of
from sana_cli.config.user_settings import cache_folder

NAME = "builtin-sprint"
PACKED = "sprint"  # folder in that of the built-in model
WEIGHTS = "transformer.safetensors"
SCALE = ".row_scale"  # after the name of a tensor in 8 bits: fp16, one for each of its rows
_SHARED = ("vae", "text_encoder", "tokenizer")
_PLACES = {
    "transformer_config.json": "transformer/config.json",
    "scheduler_config.json": "scheduler/scheduler_config.json",
    "model_index.json": "model_index.json",
    "sana.json": "sana.json",
}


def unpacked_folder(builtin: Path) -> Path:
    """The model's folder in the cache, made where it is not there yet. `builtin`: the folder of the built-in model."""
    packed = builtin / PACKED
    folder = cache_folder() / NAME / sha256_of(packed / WEIGHTS)[:16]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder.parent))
    try:
        for part in _SHARED:
            shutil.copytree(builtin / part, made / part)
        for name, place in _PLACES.items():
            (made / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(packed / name, made / place)
        shutil.copyfile(builtin / "preview.safetensors", made / "preview.safetensors")
        unpack(packed / WEIGHTS, made / "transformer/diffusion_pytorch_model.safetensors")
        if not folder.is_dir():
            os.rename(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def unpack(packed: Path, target: Path) -> None:
    """Write the tensors of a packed file in fp16: rows of 8 bits times their scales."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    stored = load_file(packed)
    tensors = {}
    for name, values in stored.items():
        if name.endswith(SCALE):
            continue
        if values.dtype == np.int8:
            scale = stored[name + SCALE].astype(np.float32)
            values = values * scale.reshape(-1, *[1] * (values.ndim - 1))
        tensors[name] = np.ascontiguousarray(values.astype(np.float16))
    save_file(tensors, target, metadata={"format": "pt"})
