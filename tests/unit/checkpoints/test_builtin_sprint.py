"""The built-in few-step model: small in the package, unpacked once, and drawing what it is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sana_cli.checkpoints.builtin_sprint import NAME, PACKED, unpacked_folder
from sana_cli.checkpoints.model_names import BUILTIN_FOLDER
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.checkpoints.packed_weights import SCALE, unpack

LARGEST_PACKAGE = 25_000_000  # bytes


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SANA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_package_stays_small() -> None:
    files = [path for path in BUILTIN_FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) <= LARGEST_PACKAGE


def test_rows_are_unpacked(tmp_path: Path) -> None:
    weight = torch.randn(6, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    scale = (weight.flatten(1).abs().amax(1) / 127).half()
    rows = (weight.flatten(1) / scale.float()[:, None]).round().to(torch.int8)
    packed = {"a": rows.view(weight.shape), "a" + SCALE: scale, "b": torch.ones(3).half()}
    save_file(packed, tmp_path / "packed.safetensors")
    unpack(tmp_path / "packed.safetensors", tmp_path / "tensors.safetensors")
    found = load_file(tmp_path / "tensors.safetensors")
    assert set(found) == {"a", "b"}
    torch.testing.assert_close(found["a"].float(), weight, rtol=0, atol=float(scale.max()))


def test_it_is_unpacked_once(cache: Path) -> None:
    folder = unpacked_folder(BUILTIN_FOLDER)
    assert folder.parent == cache / NAME
    stamp = (folder / "model_index.json").stat().st_mtime_ns
    assert unpacked_folder(BUILTIN_FOLDER) == folder
    assert (folder / "model_index.json").stat().st_mtime_ns == stamp
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing is left over"
    checkpoint = open_checkpoint(NAME)
    assert (checkpoint.name, checkpoint.defaults.scheduler, checkpoint.defaults.steps) == (
        NAME,
        "scm",
        2,
    )
    assert (BUILTIN_FOLDER / PACKED).is_dir()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_it_draws(steps: int, sana: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    prompt = "a large red circle on a blue background"
    words = ("-m", NAME, "--steps", steps, "--seed", 5, "--device", "cpu", "-o", path)
    assert sana("generate", prompt, *words).code == 0
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red, blue = pixels[112:144, 112:144].mean((0, 1)), pixels[:8, :8].mean((0, 1))
    assert red[0] > 150
    assert red[0] - red[2] > 80
    assert blue[2] - blue[0] > 60
