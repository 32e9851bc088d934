"""The stored tensors of a checkpoint's component: found, named as its module names them, and known to be whole."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from quant.files import open_regular
from sana_cli.checkpoints.checkpoint import (
    PTH_PARTS,
    Checkpoint,
    module_names,
    weight_files,
)
from sana_cli.checkpoints.decoder_files import OtherDecoder
from sana_cli.checkpoints.known_digests import known_digest
from sana_cli.checkpoints.model_files import CORRUPT, unreadable
from sana_cli.checkpoints.pth import header_of, read_part, read_tensors
from sana_cli.checkpoints.safetensors_data import read_tensor, stored_shape
from sana_cli.checkpoints.safetensors_headers import WeightFiles
from sana_cli.errors import checkpoint_error


@dataclass(frozen=True, slots=True)
class ComponentWeights:
    """The stored tensors of a component, under the names of its module."""

    names: dict[str, str]  # module's name -> name that `read` takes
    read: Callable[[str], Tensor]
    total_bytes: int
    fingerprint: str  # of the files, without reading them: changes when they do
    files: WeightFiles | None = None  # None for a .pth file

    def shape_of(self, name: str) -> Tensor:
        """Return a tensor of the stored type and shape, by a name that `read` takes; its values are
        not read.
        """
        return stored_shape(self.files, name) if self.files is not None else self.read(name)


def component_weights(checkpoint: Checkpoint, component: str) -> ComponentWeights:
    """Find a component's tensors; of a quantized folder, only after comparing its digest."""
    if checkpoint.pth is not None and component in PTH_PARTS:
        tensors = read_part(checkpoint.pth, component)
        names = {name: name for name in tensors}
        size = checkpoint.pth.stat().st_size
        return ComponentWeights(names, tensors.__getitem__, size, _fingerprint({checkpoint.pth}))
    if component == "vae" and checkpoint.decoder is not None:
        return _with_other_decoder(checkpoint, checkpoint.decoder)
    if checkpoint.manifest is not None:
        part = checkpoint.manifest.components[component]
        _require_digest(checkpoint.folder / part.file, part.sha256)
    files = weight_files(checkpoint, component)
    if checkpoint.manifest is not None and files.paths != {checkpoint.folder / part.file}:
        raise checkpoint_error(
            f"{files.folder} holds weights that the manifest does not know",
            hint=f"a quantized part is one file: delete the other files next to {part.file}",
        )
    return stored_weights(files, component)


def _with_other_decoder(checkpoint: Checkpoint, other: OtherDecoder) -> ComponentWeights:
    """Return the tensors of another decoder, with those of the model's own encoder unless it is tiny."""
    files = other.files
    tensors = {} if files else read_tensors(other.path)
    stored = files.headers if files else {name: header_of(t) for name, t in tensors.items()}
    names = other.names(stored)
    read = partial(read_tensor, files) if files else tensors.__getitem__
    size = sum(path.stat().st_size for path in other.paths)
    decoder = ComponentWeights(names, read, size, _fingerprint(other.paths), files)
    if other.is_tiny:
        return decoder
    own = component_weights(replace(checkpoint, decoder=None), "vae")
    encoder = {name: place for name, place in own.names.items() if name.startswith("encoder.")}

    def read_either(place: str) -> Tensor:
        return decoder.read(place) if place.startswith("decoder.") else own.read(place)

    return ComponentWeights(
        encoder | names, read_either, own.total_bytes, f"{own.fingerprint} {decoder.fingerprint}"
    )


def stored_weights(files: WeightFiles, component: str) -> ComponentWeights:
    """Return the tensors of safetensors files, under the names of a component's module."""
    names = module_names(component, files)
    return ComponentWeights(
        names, partial(read_tensor, files), files.total_bytes, _fingerprint(files.paths), files
    )


def prefetch(checkpoint: Checkpoint, component: str) -> None:
    """Make the system read a component's files into its cache while something else computes.

    The system drops them again when memory is short.
    """
    if not hasattr(os, "posix_fadvise"):  # not on Windows and macOS
        return
    if checkpoint.pth is not None and component in PTH_PARTS:
        paths = {checkpoint.pth}
    elif component == "vae" and checkpoint.decoder is not None:
        paths = checkpoint.decoder.paths
    else:
        paths = weight_files(checkpoint, component).paths
    for path in paths:
        with suppress(OSError), open_regular(path) as file:  # who needs them will say what is wrong
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _fingerprint(paths: Iterable[Path]) -> str:
    states = [(path.resolve(), path.stat()) for path in sorted(paths)]
    return ";".join(f"{path}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in states)


def _require_digest(path: Path, sha256: str) -> None:
    try:
        found = known_digest(path)
    except OSError as error:
        raise unreadable(path, CORRUPT, error) from error
    if found != sha256:
        raise checkpoint_error(
            f"{path} is damaged: its SHA-256 is not the manifest's",
            hint="copy the folder again, or quantize the model again",
        )
