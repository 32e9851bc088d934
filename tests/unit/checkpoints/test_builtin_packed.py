"""Models that share the built-in one's parts: small in the package, unpacked once, and drawing what they are asked for."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from sana_cli.checkpoints.builtin_packed import CONTROL, SPRINT, unpacked_folder
from sana_cli.checkpoints.model_names import BUILTIN_FOLDER
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.checkpoints.packed_weights import SCALE, unpack

LARGEST_PACKAGE = 25_000_000  # bytes of a wheel


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SANA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_package_stays_small() -> None:
    """Compressed, as in a wheel."""
    files = [p for p in BUILTIN_FOLDER.parent.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    assert sum(len(zlib.compress(path.read_bytes(), 1)) for path in files) <= LARGEST_PACKAGE


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
    folder = unpacked_folder(BUILTIN_FOLDER, SPRINT)
    assert folder.parent == cache / SPRINT.name
    stamp = (folder / "model_index.json").stat().st_mtime_ns
    assert unpacked_folder(BUILTIN_FOLDER, SPRINT) == folder
    assert (folder / "model_index.json").stat().st_mtime_ns == stamp
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing is left over"
    checkpoint = open_checkpoint(SPRINT.name)
    assert checkpoint.controlnet is None
    assert (checkpoint.name, checkpoint.defaults.scheduler, checkpoint.defaults.steps) == (
        SPRINT.name,
        "scm",
        2,
    )
    assert (BUILTIN_FOLDER / SPRINT.folder).is_dir()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_it_draws(steps: int, sana: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    prompt = "a large red circle on a blue background"
    words = ("-m", SPRINT.name, "--steps", steps, "--seed", 5, "--device", "cpu", "-o", path)
    assert sana("generate", prompt, *words).code == 0
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red, blue = pixels[112:144, 112:144].mean((0, 1)), pixels[:8, :8].mean((0, 1))
    assert red[0] > 150
    assert red[0] - red[2] > 80
    assert blue[2] - blue[0] > 60


@pytest.mark.parametrize("place", [(8, 8), (136, 8), (8, 136), (136, 136)])
def test_it_follows_a_drawing(
    sana: Callable[..., Any], tmp_path: Path, place: tuple[int, int]
) -> None:
    """To corners, where no prompt can put a thing."""
    left, top = place
    lines = Image.new("RGB", (256, 256))
    ImageDraw.Draw(lines).ellipse((left, top, left + 111, top + 111), outline="white", width=2)
    lines.save(tmp_path / "lines.png")
    words = (
        "-m",
        CONTROL.name,
        "--steps",
        6,
        "--seed",
        5,
        "--device",
        "cpu",
        "-o",
        tmp_path / "a.png",
    )
    done = sana(
        "generate",
        "a red circle on a white background",
        "--control",
        tmp_path / "lines.png",
        *words,
    )
    assert done.code == 0, done.err
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    seen = pixels[..., 0] - pixels[..., 1] > 60
    y, x = np.mgrid[:256, :256]
    circle = (x - left - 56) ** 2 + (y - top - 56) ** 2 < 56**2
    assert (seen & circle).sum() / (seen | circle).sum() > 0.6
