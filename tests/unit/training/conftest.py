"""Small synthetic sprites: no network, no renderer, and every object looks different."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # training/ is not installed

from training.sprites import Sprites
from training.vocabulary import OBJECT_SIZES, OBJECTS, SIZES, STYLES


@pytest.fixture(scope="session")
def sprites() -> Sprites:
    """Blobs of random coarse colours, the same at every size."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 255, (len(STYLES), len(OBJECTS), 4, 4, 3), dtype=np.uint8)
    rgba = {}
    for size in OBJECT_SIZES:
        side = SIZES[size]
        cells = np.arange(side) * 4 // side
        colours = patterns[:, :, cells][:, :, :, cells]
        alpha = np.full((*colours.shape[:-1], 1), 255, np.uint8)
        rgba[size] = np.concatenate([colours, alpha], axis=-1)
    return Sprites(rgba=rgba)
