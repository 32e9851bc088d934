"""Weights that the package holds as 8-bit rows, unpacked once into a folder of the cache. No torch.

What is unpacked lies in a folder named by the digest of what it was made from.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from quant.manifest import sha256_of
from sana_cli.config.places import cache_folder

SCALE = ".row_scale"  # after the name of a tensor in 8 bits: fp16, one for each of its rows
PACKED_WEIGHTS = "packed.safetensors"  # of a decoder's folder, in place of its weights


def unpacked_once(name: str, sources: Sequence[Path], fill: Callable[[Path], None]) -> Path:
    """The folder in the cache that `fill` makes of `sources`, made where it is not there yet.

    OSError where the cache cannot be written; nothing half-made stays.
    """
    digests = "".join(sha256_of(source) for source in sources)
    folder = cache_folder() / name / hashlib.sha256(digests.encode()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder.parent))
    try:
        fill(made)
        if not folder.is_dir():
            os.rename(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def unpacked_decoder(folder: Path) -> Path:
    """A decoder's folder with its weights in fp16: itself, or one in the cache where it holds packed ones."""
    packed, config = folder / PACKED_WEIGHTS, folder / "config.json"
    if not packed.is_file():
        return folder

    def fill(made: Path) -> None:
        shutil.copyfile(config, made / config.name)
        unpack(packed, made / "diffusion_pytorch_model.safetensors")

    return unpacked_once("decoders", (config, packed), fill)


def unpack(
    packed: Path, target: Path, *, base: Path | None = None, borrowed: tuple[str, ...] = ()
) -> None:
    """Write the tensors of a packed file in fp16, rows of 8 bits times their scales; before them those of `base` whose
    names begin as `borrowed`.
    """
    import numpy as np
    from safetensors.numpy import load_file, save_file

    stored = load_file(packed)
    tensors = {}
    if base is not None:
        tensors = {n: values for n, values in load_file(base).items() if n.startswith(borrowed)}
    for name, values in stored.items():
        if name.endswith(SCALE):
            continue
        if values.dtype == np.int8:
            scale = stored[name + SCALE].astype(np.float32)
            values = values * scale.reshape(-1, *[1] * (values.ndim - 1))
        tensors[name] = np.ascontiguousarray(values.astype(np.float16))
    save_file(tensors, target, metadata={"format": "pt"})
