"""Pairs for distilling a decoder: latents of unit variance and the pictures that the teacher's decoder makes of them.

Three kinds of latents: encoded scenes with a little noise, and what the built-in models draw for fresh captions, which
is what the student will read. A picture is kept as patches, so that the student's last convolution is compared before
it is shuffled to pixels.
"""

# B batch, C latent channels, h w latent grid, P pixels along a side of a patch, G patches along a side of a latent position

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sana_cli.models.dc_ae import AutoencoderDC
from training.captions import choose_caption
from training.data import CELL_PX, whole_pictures
from training.evaluate import Painter, load_painter
from training.runs import to_uint8, to_unit_range
from training.sampling import sample_latents
from training.scenes import sample_scene
from training.sprites import Sprites

CROP = 4  # latent positions along a side of a crop
_BORDER_PX = 16  # of a crop, where it was cut: what lies beyond is unknown to the student, so nothing is asked there
_FLAT = 0.02  # chance of an empty crop, as a share of the fullest one's activity


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Hold latents and target patches of one step; patches and weights are channels last."""

    latents: Tensor  # (B, C, h, w) fp32
    patches: Tensor  # (B, G h, G w, 3 P P) fp32, 0..1
    weight: Tensor | None  # (B, G h, G w, 1), 0 where nothing is asked; None for whole pictures

    def to(self, device: torch.device) -> "Batch":
        weight = None if self.weight is None else self.weight.to(device)
        return Batch(
            latents=self.latents.to(device), patches=self.patches.to(device), weight=weight
        )


class Teachers:
    """Draws latents and decodes them. Loads the built-in model and the few-step one, both fp32."""

    def __init__(self, model: str, sprites: Sprites, rng: random.Random, *, noise: float) -> None:
        self.sprites, self.rng, self.noise = sprites, rng, noise
        self.painter = load_painter(model)
        few_steps = load_painter(f"{model}-sprint") if model == "builtin" else self.painter
        # One decoder for both, so that all pictures are one teacher's.
        self.few_steps = replace(few_steps, vae=self.painter.vae)

    def encoded(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Scenes through the encoder, with noise of a random strength: as `drawn`."""
        vae = self.painter.vae
        device = next(vae.parameters()).device
        _, images = whole_pictures(self.sprites, self.rng, count)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            latents = vae.encode(to_unit_range(images, device)).float() * vae.config.scaling_factor
        strength = self.noise * torch.rand((count, 1, 1, 1), device=device)
        return decoded(vae, latents + torch.randn_like(latents) * strength)

    def drawn(self, painter: Painter, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Latents (B, C, h, w) fp16 that a model draws for fresh captions, and pictures (B, H, W, 3) uint8."""
        captions = [choose_caption(sample_scene(self.rng), self.rng) for _ in range(count)]
        latents = sample_latents(
            painter.transformer, painter.text_encoder, painter.tokenizer, captions,
            seeds=[self.rng.randrange(2**30) for _ in captions], steps=painter.steps,
            guidance=painter.guidance, shift=painter.shift, scheduler=painter.scheduler,
        )  # fmt: skip
        return decoded(painter.vae, latents)

    def some(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Make pairs of a random kind: the model itself, whose drawings the student will read, for two of five."""
        kind = self.rng.random()
        if kind < 0.4:
            return self.drawn(self.painter, count)
        return self.drawn(self.few_steps, count) if kind < 0.8 else self.encoded(count)


@torch.inference_mode()
def decoded(vae: AutoencoderDC, latents: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Latents rounded to fp16, as they are kept, and their pictures (B, H, W, 3) uint8."""
    kept = latents.half()
    with torch.autocast(kept.device.type, torch.bfloat16):
        images = vae.decode(kept.float() / vae.config.scaling_factor)
    return kept.cpu().numpy(), to_uint8(images)


class Pool:
    """The latest `limit` pairs, in memory."""

    def __init__(self, *, limit: int, patch: int, rng: np.random.Generator) -> None:
        self.limit, self.patch, self.rng = limit, patch, rng
        self._latents: list[np.ndarray] = []  # (h, w, C) fp32 each
        self._patches: list[np.ndarray] = []  # (G h, G w, 3 P P) uint8 each
        self._crops: list[np.ndarray] = []  # cumulative chances of the crops, row by row
        self._oldest = 0

    def __len__(self) -> int:
        return len(self._latents)

    def add(self, latents: np.ndarray, images: np.ndarray) -> None:
        """Keep pairs, as `Teachers` makes them; past the limit they replace the oldest."""
        for latent, image in zip(latents, images, strict=True):
            pair = (
                latent.transpose(1, 2, 0).astype(np.float32),
                to_patches(image, self.patch),
                np.cumsum(crop_chances(image)),
            )
            kept = (self._latents, self._patches, self._crops)
            if len(self) < self.limit:
                for values, value in zip(kept, pair, strict=True):
                    values.append(value)
                continue
            for values, value in zip(kept, pair, strict=True):
                values[self._oldest] = value
            self._oldest = (self._oldest + 1) % self.limit

    def wholes(self, count: int) -> Batch:
        """Whole pictures."""
        chosen = self.rng.integers(len(self), size=count)
        return _batch([self._latents[i] for i in chosen], [self._patches[i] for i in chosen], None)

    def crops(self, count: int) -> Batch:
        """Crops of `CROP` latent positions a side, the more often the more they show."""
        latents, patches, weights = [], [], []
        finer = CELL_PX // self.patch
        for i in self.rng.integers(len(self), size=count):
            rows, columns = (side - CROP + 1 for side in self._latents[i].shape[:2])
            place = int(np.searchsorted(self._crops[i], self.rng.random()))
            top, left = divmod(min(place, rows * columns - 1), columns)
            latents.append(self._latents[i][top : top + CROP, left : left + CROP])
            patches.append(
                self._patches[i][
                    top * finer : (top + CROP) * finer, left * finer : (left + CROP) * finer
                ]
            )
            cut = (top > 0, top < rows - 1, left > 0, left < columns - 1)
            weights.append(crop_weight(cut, self.patch))
        return _batch(latents, patches, torch.stack(weights))


def _batch(latents: list[np.ndarray], patches: list[np.ndarray], weight: Tensor | None) -> Batch:
    return Batch(
        latents=torch.from_numpy(np.stack(latents)).permute(0, 3, 1, 2),
        patches=torch.from_numpy(np.stack(patches)).float() / 255,
        weight=weight,
    )


def to_patches(image: np.ndarray, patch: int) -> np.ndarray:
    """(H, W, 3) -> (H/P, W/P, 3 P P), in the order of `pixel_unshuffle`."""
    H, W, _ = image.shape
    cut = image.reshape(H // patch, patch, W // patch, patch, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(cut.reshape(H // patch, W // patch, -1))


def crop_chances(image: np.ndarray) -> np.ndarray:
    """The chance of every crop, row by row: the square of how much its positions vary inside."""
    thin = image[::2, ::2].astype(np.float32)
    side = CELL_PX // 2
    rows, columns = thin.shape[0] // side, thin.shape[1] // side
    cells = thin.reshape(rows, side, columns, side, 3)
    activity = np.abs(cells - cells.mean(axis=(1, 3), keepdims=True)).mean(axis=(1, 3, 4))
    windows = np.lib.stride_tricks.sliding_window_view(activity, (CROP, CROP))
    sums = windows.sum(axis=(2, 3)).ravel()
    chances = (sums + _FLAT * sums.max() + 1e-3) ** 2
    return chances / chances.sum()


def crop_weight(cut: tuple[bool, bool, bool, bool], patch: int) -> Tensor:
    """(G CROP, G CROP, 1): 0 along the sides (top, bottom, left, right) where the crop was cut, else 1."""
    size, border = CROP * CELL_PX // patch, _BORDER_PX // patch
    top, bottom, left, right = (border * side for side in cut)
    weight = torch.zeros(size, size, 1)
    weight[top : size - bottom, left : size - right] = 1
    return weight
