"""Lines by HED, against its layout written down a second time: plain functions, OpenCV for sizes and for what follows."""

from collections.abc import Mapping

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sana_cli.checkpoints.hed_file import HedFile, find_hed
from sana_cli.images.control_lines import scribbled
from sana_cli.loading.hed import load_hed
from sana_cli.pipeline.control_image import find_edges
from tests.hed_files import write_hed


@pytest.fixture(scope="module")
def hed(tmp_path_factory: pytest.TempPathFactory) -> HedFile:
    return find_hed(str(write_hed(tmp_path_factory.mktemp("hed") / "ControlNetHED.pth")))


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """Smooth shapes and noise, 200 x 150."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:150, :200]
    waves = np.stack([np.sin(x / 17 + k) * np.cos(y / (11 + k)) for k in range(3)], axis=-1)
    pixels = 127 + 90 * waves + rng.normal(0, 12, waves.shape)
    pixels[40:90, 60:130] = (220, 40, 60)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def by_layout(tensors: Mapping[str, Tensor], rgb: np.ndarray) -> np.ndarray:
    """Strengths of edges, float64 (H, W): names of the file, OpenCV's resizing, the mean, the sigmoid."""
    height, width = rgb.shape[:2]
    x = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)[None] - tensors["norm"]
    sides = []
    for block, convs in enumerate((2, 2, 3, 3, 3), start=1):
        if block > 1:
            x = F.max_pool2d(x, kernel_size=(2, 2), stride=(2, 2))
        for i in range(convs):
            name = f"block{block}.convs.{i}"
            x = F.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1).relu()
        name = f"block{block}.projection"
        side = F.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
        sides.append(cv2.resize(side[0, 0].numpy(), (width, height)))
    return 1 / (1 + np.exp(-np.mean(np.stack(sides), axis=0).astype(np.float64)))


def test_edges(hed: HedFile, photograph: Image.Image) -> None:
    found = find_edges(load_hed(hed), photograph)
    tensors = {n: t.float() for n, t in torch.load(hed.path, weights_only=True).items()}
    expected = by_layout(tensors, np.asarray(photograph)) * 255
    assert found.shape == (150, 200)
    assert np.abs(found - expected).max() < 1.1, "rounded down"
    assert np.ptp(found) > 150, "lively weights: both strong and weak edges"


def nms_by_loops(strengths: np.ndarray) -> np.ndarray:
    """Ridges of a blurred map: as large as both neighbours in some direction, and above 127."""
    x = cv2.GaussianBlur(strengths.astype(np.float32), (0, 0), 3.0)
    padded = np.pad(x, 1, constant_values=-1)
    height, width = x.shape
    found = np.zeros_like(x, dtype=np.uint8)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        ahead = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        behind = padded[1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        found[(x >= ahead) & (x >= behind) & (x > 127)] = 255
    return found


def test_scribble(photograph: Image.Image) -> None:
    strengths = np.asarray(photograph.convert("L").resize((320, 256)))
    strokes = cv2.GaussianBlur(nms_by_loops(strengths), (0, 0), 3.0) > 4
    found = scribbled(strengths)
    assert set(np.unique(found)) == {0, 255}
    np.testing.assert_array_equal(found > 0, strokes)
    assert 0.05 < strokes.mean() < 0.95
