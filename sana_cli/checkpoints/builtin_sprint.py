"""The built-in few-step model: a transformer of 8-bit rows in the package, unpacked once next to the built-in model's parts.

Only its transformer is its own; text encoder, tokenizer, autoencoder and other decoders are the built-in model's. No torch.
"""

import shutil
from pathlib import Path

from sana_cli.checkpoints.packed_weights import PACKED_WEIGHTS, unpack, unpacked_once

NAME = "builtin-sprint"
PACKED = "sprint"  # folder in that of the built-in model
WEIGHTS = "transformer.safetensors"
_SHARED = ("vae", "text_encoder", "tokenizer", "decoders")
_PLACES = {
    "transformer_config.json": "transformer/config.json",
    "scheduler_config.json": "scheduler/scheduler_config.json",
    "model_index.json": "model_index.json",
    "sana.json": "sana.json",
}


def unpacked_folder(builtin: Path) -> Path:
    """The model's folder in the cache, made where it is not there yet. `builtin`: the folder of the built-in model."""
    packed = builtin / PACKED

    def fill(made: Path) -> None:
        for part in _SHARED:
            if (builtin / part).is_dir():
                shutil.copytree(builtin / part, made / part)
        for name, place in _PLACES.items():
            (made / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(packed / name, made / place)
        shutil.copyfile(builtin / "preview.safetensors", made / "preview.safetensors")
        unpack(packed / WEIGHTS, made / "transformer/diffusion_pytorch_model.safetensors")

    decoders = sorted(builtin.glob(f"decoders/*/{PACKED_WEIGHTS}"))
    return unpacked_once(NAME, (packed / WEIGHTS, *decoders), fill)
