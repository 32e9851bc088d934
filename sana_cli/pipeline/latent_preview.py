"""A picture of latents without the decoder: by one linear map from 3x3 latents to 4x4 pixels, or by a tiny decoder.

The map is learnt by least squares from pictures that were decoded anyway, and kept for each decoder in the cache; what is
kept are sums over positions, from which no picture can be made again. A model folder may bring a map of its own. Being
linear, it maps an expected picture, which is what a denoiser's estimate is, as well as a finished one.
"""

# C latent channels, h w latent grid, N positions, F = 9C + 1 features of a position, T = 3 * 4 * 4 values of its pixels

import logging
import os
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional as F

from quant.files import read_small
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.component_weights import component_weights
from sana_cli.checkpoints.find_decoder import OWN_FOLDER, tiny_here
from sana_cli.config.decoders import TINY
from sana_cli.config.places import cache_folder
from sana_cli.decoding.exact_tiles import decode_exact
from sana_cli.errors import SanaError
from sana_cli.files import new_file
from sana_cli.images.tensors import to_image
from sana_cli.loading.load import load_decoder
from sana_cli.models.tiny_decoder import TinyAutoencoder

OWN_FILE = "preview.safetensors"  # in a model's folder
PATCH = 4  # pixels of the preview for one position of the latents, each way
_TILE = 256  # pixels, of a preview by the tiny decoder: a few tens of MiB
LARGEST_SIDE = 512  # pixels, that previews are enlarged to
ENOUGH = 256  # positions; a map learnt from fewer shows nothing
PLENTY = 32_768  # positions; more change nothing
_MOST_SIDE = 64  # positions of one picture that are learnt from, each way, in its middle
_RIDGE = 0.1  # of the features' mean square; what little data leaves open stays near zero
_VERSION = 1  # counts up when the same sums would mean something else
_LARGEST_FILE = 16 * 2**20  # bytes
_log = logging.getLogger("sana.preview")


@dataclass(frozen=True, slots=True)
class PreviewMap:
    """The linear map, as a convolution."""

    weight: Tensor  # (T, C, 3, 3) fp32
    bias: Tensor  # (T,) fp32

    def __call__(self, latents: Tensor) -> Tensor:
        """Latents (1, C, h, w), finished or an estimate -> pixels (1, 3, 4h, 4w), nominally -1..1."""
        padded = F.pad(latents, (1, 1, 1, 1), mode="replicate")
        return F.pixel_shuffle(F.conv2d(padded, self.weight, self.bias), PATCH)


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums for least squares over all latent positions so far, fp32; F features, T target values."""

    gram: Tensor  # (F, F) of the features
    cross: Tensor  # (F, T) of features and pixels
    count: int  # positions

    @classmethod
    def of(cls, latents: Tensor, decoded: Tensor) -> "Sums":
        """Sum over one picture: finished latents (1, C, h, w) and their decoded pixels (1, 3, H, W), -1 to 1."""
        height, width = latents.shape[-2:]
        scale = decoded.shape[-1] // width
        rows, columns = min(height, _MOST_SIDE), min(width, _MOST_SIDE)
        top, left = (height - rows) // 2, (width - columns) // 2
        padded = F.pad(latents.float(), (1, 1, 1, 1), mode="replicate")
        around = padded[..., top : top + rows + 2, left : left + columns + 2]
        features = F.unfold(around, 3)[0].cpu()  # (9C, N)
        features = torch.cat([features, torch.ones_like(features[:1])])  # (F, N)
        pixels = decoded[
            ..., top * scale : (top + rows) * scale, left * scale : (left + columns) * scale
        ]
        small = F.avg_pool2d(pixels.float().clamp(-1, 1), scale // PATCH)  # (1, 3, 4h, 4w)
        targets = F.pixel_unshuffle(small, PATCH)[0].flatten(1).cpu()  # (T, N)
        return cls(features @ features.T, features @ targets.T, rows * columns)

    def plus(self, other: "Sums") -> "Sums":
        return Sums(self.gram + other.gram, self.cross + other.cross, self.count + other.count)

    def solve(self) -> PreviewMap:
        """The map with the least squared error; ridge regression, but for the bias."""
        gram = self.gram.double()
        ridge = torch.full((len(gram),), _RIDGE * float(gram.diagonal()[:-1].mean())).double()
        ridge[-1] = 0
        solved = torch.linalg.solve(gram + ridge.diag(), self.cross.double()).float()  # (F, T)
        weight = solved[:-1].T.unflatten(1, (-1, 3, 3)).contiguous()  # (T, C, 3, 3)
        return PreviewMap(weight, solved[-1])


class LatentPreview:
    """The map of one model's decoder, which gets better with every picture that is decoded."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @property
    def is_ready(self) -> bool:
        """Check whether there is a map that has learnt enough, or a tiny decoder for the model."""
        return self._has_map or self._tiny is not None

    @property
    def _has_map(self) -> bool:
        return self._own is not None or (self._sums is not None and self._sums.count >= ENOUGH)

    @torch.inference_mode()
    def picture(self, latents: Tensor) -> Image.Image:
        """Latents (1, C, h, w) as a picture. Only when `is_ready`.

        By the tiny decoder that the model brings, or that is here while nothing is learnt yet; else smaller than the
        decoder's picture, and soft.
        """
        tiny = self._tiny
        if tiny is not None and (self._brings_tiny or not self._has_map):
            unscaled = tiny.unscale(latents.float().cpu())
            return to_image(decode_exact(tiny.decoder, unscaled, tile=_TILE))
        image = to_image((self._own or self._learnt)(latents.float().cpu()))
        scale = min(self._checkpoint.vae.downscale / PATCH, LARGEST_SIDE / max(image.size))
        size = round(image.width * scale), round(image.height * scale)
        return image.resize(size, Image.Resampling.BICUBIC) if scale > 1 else image

    @torch.inference_mode()
    def learn(self, latents: Tensor, decoded: Tensor) -> None:
        """Learn from a picture: finished latents (1, C, h, w) and their decoded pixels (1, 3, H, W), -1 to 1."""
        if self._own is not None or (self._sums is not None and self._sums.count >= PLENTY):
            return
        new = Sums.of(latents, decoded)
        self._sums = new if self._sums is None else self._sums.plus(new)
        self.__dict__.pop("_learnt", None)
        sums = self._sums
        _write(
            self._path, {"gram": sums.gram, "cross": sums.cross, "count": torch.tensor(sums.count)}
        )

    @cached_property
    def _own(self) -> PreviewMap | None:
        """Read the map in the model's folder; None if there is none."""
        values = 3 * PATCH**2
        shapes = {"weight": (values, self._channels, 3, 3), "bias": (values,)}
        found = _read(self._checkpoint.folder / OWN_FILE, shapes)
        return PreviewMap(found["weight"], found["bias"]) if found else None

    @property
    def _brings_tiny(self) -> bool:
        return (self._checkpoint.folder / OWN_FOLDER / TINY).is_dir()

    @cached_property
    def _tiny(self) -> TinyAutoencoder | None:
        """Load the tiny decoder for this model, in fp32 on the CPU; None where none is here or its file is damaged."""
        found = tiny_here(self._checkpoint)
        if found is None:
            return None
        try:
            loaded = load_decoder(
                replace(self._checkpoint, decoder=found), dtype="fp32", device=torch.device("cpu")
            )
        except SanaError as error:
            _log.info("no preview by the tiny decoder: %s", error)
            return None
        assert isinstance(loaded, TinyAutoencoder)
        return loaded

    @cached_property
    def _sums(self) -> Sums | None:
        """Read the sums over earlier pictures; None if there are none."""
        features = 9 * self._channels + 1
        shapes = {"gram": (features, features), "cross": (features, 3 * PATCH**2), "count": ()}
        found = _read(self._path, shapes)
        return Sums(found["gram"], found["cross"], int(found["count"])) if found else None

    @cached_property
    def _learnt(self) -> PreviewMap:
        assert self._sums is not None
        return self._sums.solve()

    @property
    def _channels(self) -> int:
        return self._checkpoint.vae.latent_channels

    @cached_property
    def _path(self) -> Path:
        decoder = component_weights(self._checkpoint, "vae").fingerprint
        name = sha256(os.fsencode(f"{_VERSION} {decoder}")).hexdigest()
        return cache_folder() / "previews" / f"{name}.safetensors"


def _read(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor] | None:
    """Finite tensors of these shapes, in fp32; None for any other file: a preview is not worth an error."""
    try:
        content = read_small(path, _LARGEST_FILE)
        found = {name: tensor.float() for name, tensor in load(content).items()}
    except (OSError, SafetensorError):
        return None
    if {name: tuple(tensor.shape) for name, tensor in found.items()} != shapes:
        return None
    return found if all(tensor.isfinite().all() for tensor in found.values()) else None


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write the sums for later runs; do nothing if the folder is not writable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path, overwrite=True) as file:
            file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    except (OSError, SanaError) as error:
        _log.info("what previews need is not kept: %s", error)
