"""Models that share most of the built-in one: a part of 8-bit rows in the package, unpacked once next to the shared parts.

Of the few-step model the transformer is its own, of the one with a ControlNet the branch, whose embedders are the
transformer's. What is unpacked lies in the cache, in a folder named by the digest of what it was made from. No torch.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from sana_cli.checkpoints.packed_weights import PACKED_WEIGHTS, unpack, unpacked_once

_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedModel:
    """A model whose own part lies packed in a folder within the built-in model's."""

    name: str
    folder: str
    part: str  # the component that is its own
    shared: tuple[str, ...]  # folders of the built-in model
    places: tuple[tuple[str, str], ...]  # of small files: in the package, unpacked
    borrowed: tuple[
        str, ...
    ] = ()  # starts of names of the transformer's tensors, which the part has, too

    @property
    def weights(self) -> str:
        """The file of packed tensors."""
        return f"{self.part}.safetensors"


_COMMON = ("vae", "text_encoder", "tokenizer", "decoders")
SPRINT = PackedModel(
    name="builtin-sprint", folder="sprint", part="transformer", shared=_COMMON,
    places=(
        ("transformer_config.json", "transformer/config.json"),
        ("scheduler_config.json", "scheduler/scheduler_config.json"),
        ("model_index.json", "model_index.json"),
        ("sana.json", "sana.json"),
    ),
)  # fmt: skip
CONTROL = PackedModel(
    name="builtin-control", folder="control", part="controlnet",
    shared=(*_COMMON, "transformer", "scheduler"),
    places=(
        ("controlnet_config.json", "controlnet/config.json"),
        ("model_index.json", "model_index.json"),
        ("sana.json", "sana.json"),
    ),
    borrowed=("patch_embed.", "time_embed.", "caption_projection.", "caption_norm."),
)  # fmt: skip
PACKED_MODELS = {model.name: model for model in (SPRINT, CONTROL)}


def unpacked_folder(builtin: Path, model: PackedModel) -> Path:
    """The model's folder in the cache, made where it is not there yet. `builtin`: the folder of the built-in model."""
    packed = builtin / model.folder

    def fill(made: Path) -> None:
        for part in model.shared:
            if (builtin / part).is_dir():
                shutil.copytree(builtin / part, made / part)
        for name, place in model.places:
            (made / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(packed / name, made / place)
        shutil.copyfile(builtin / "preview.safetensors", made / "preview.safetensors")
        unpack(
            packed / model.weights, made / model.part / _FILE,
            base=builtin / "transformer" / _FILE if model.borrowed else None, borrowed=model.borrowed,
        )  # fmt: skip

    decoders = sorted(builtin.glob(f"decoders/*/{PACKED_WEIGHTS}"))
    return unpacked_once(model.name, (packed / model.weights, *decoders), fill)
