"""Streams of pictures for training: crops that hold something, and whole scenes. Everything is drawn on the fly.

Drawing a scene takes about a millisecond, so the training process does it itself.
"""

import random

import numpy as np

from training.scenes import IMAGE_PX, Scene, draw, sample_scene
from training.sprites import Sprites

CELL_PX = 32  # one latent position
FLAT_CROPS_KEPT = 0.1
UNALIGNED_CROPS = 0.2
CROPS_PER_SCENE = 4


def whole_pictures(
    sprites: Sprites, rng: random.Random, count: int
) -> tuple[list[Scene], np.ndarray]:
    """Scenes of the training split and their pictures, uint8 (count, 256, 256, 3)."""
    scenes = [sample_scene(rng) for _ in range(count)]
    return scenes, np.stack([draw(scene, sprites) for scene in scenes])


def crops(sprites: Sprites, rng: random.Random, count: int, *, size: int) -> np.ndarray:
    """Crops with content, uint8 (count, size, size, 3); mostly at multiples of 32 px, where scenes put things."""
    if size == IMAGE_PX:
        return whole_pictures(sprites, rng, count)[1]
    found: list[np.ndarray] = []
    while len(found) < count:
        image = draw(sample_scene(rng), sprites)
        for _ in range(CROPS_PER_SCENE):
            top, left = _corner(rng, size), _corner(rng, size)
            crop = image[top : top + size, left : left + size]
            if np.ptp(crop[::4, ::4], axis=(0, 1)).max() > 0 or rng.random() < FLAT_CROPS_KEPT:
                found.append(crop)
    return np.stack(found[:count])


def _corner(rng: random.Random, size: int) -> int:
    if rng.random() < UNALIGNED_CROPS:
        return rng.randrange(IMAGE_PX - size + 1)
    return rng.randrange((IMAGE_PX - size) // CELL_PX + 1) * CELL_PX
