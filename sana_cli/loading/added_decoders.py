"""Write the decoders that a model folder brings in addition to its own, `decoders/NAME`: copies, or from a `.pth` file."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.decoder_files import OtherDecoder, joined_config
from sana_cli.checkpoints.find_decoder import OWN_FOLDER
from sana_cli.checkpoints.pth import read_tensors
from sana_cli.config.decoders import TINY
from sana_cli.config.networks import DCAEConfig, TinyDecoderConfig

WEIGHTS = "diffusion_pytorch_model.safetensors"


def copy_decoders(checkpoint: Checkpoint, added: OtherDecoder | None, target: Path) -> None:
    """Give a new model folder the decoders of the model and `added`, a tiny one, as `decoders/tiny`.

    Where the checkpoint draws with another DC-AE, the folder's autoencoder is described with that one's decoder.
    """
    own = checkpoint.folder / OWN_FOLDER
    if own.is_dir():
        shutil.copytree(own, target / OWN_FOLDER, dirs_exist_ok=True)
    if added is not None and added.path != own / TINY:
        write_tiny(added, target / OWN_FOLDER / TINY)
    other = checkpoint.decoder
    if other is not None and isinstance(other.config, DCAEConfig):
        config = asdict(joined_config(checkpoint.vae, other.config))
        text = json.dumps({"_class_name": "AutoencoderDC", **config}, indent=2)
        (target / "vae/config.json").write_text(text + "\n", encoding="utf-8")


def write_tiny(decoder: OtherDecoder, folder: Path) -> None:
    """Write a tiny decoder as a folder of safetensors, as stored."""
    assert isinstance(decoder.config, TinyDecoderConfig)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if decoder.path.is_file():
        tensors = {name: t.contiguous() for name, t in read_tensors(decoder.path).items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    else:
        for path in decoder.paths:
            shutil.copyfile(path, folder / path.name)
    text = json.dumps({"_class_name": "TinyDecoder", **asdict(decoder.config)}, indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
