"""The linear map from latents to a small picture: how it is learnt, kept and used."""

import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sana_cli.checkpoints.find_decoder import OWN_FOLDER
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.pipeline.latent_preview import (
    ENOUGH,
    OWN_FILE,
    PATCH,
    PLENTY,
    LatentPreview,
    Sums,
)
from sana_cli.schedulers import make_scheduler


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SANA_CACHE", str(folder))
    return folder


def linear_pair(seed: int, h: int = 12, w: int = 8) -> tuple[Tensor, Tensor]:
    """Latents (1, 4, h, w), and the picture (1, 3, 32h, 32w) that a linear decoder makes of them."""
    weight = torch.randn(3 * PATCH**2, 4, 3, 3, generator=torch.Generator().manual_seed(0)) / 30
    latents = torch.randn(1, 4, h, w, generator=torch.Generator().manual_seed(seed))
    small = F.pixel_shuffle(
        F.conv2d(F.pad(latents, (1, 1, 1, 1), mode="replicate"), weight) + 0.1, PATCH
    )
    return latents, F.interpolate(small, scale_factor=32 // PATCH)


def test_a_linear_decoder_is_found() -> None:
    """From several pictures of different shapes, and from the middle of a large one."""
    sums = Sums.of(*linear_pair(1)).plus(Sums.of(*linear_pair(2, 8, 20)))
    for seed in range(3, 40):
        sums = sums.plus(Sums.of(*linear_pair(seed)))
    latents, picture = linear_pair(99)
    expected = F.avg_pool2d(picture, 32 // PATCH)
    error = sums.solve()(latents) - expected
    assert float(error.square().mean() / expected.square().mean()) < 0.01
    large = Sums.of(*linear_pair(1, 70, 66))
    assert large.count == 64 * 64
    error = large.solve()(latents) - expected
    assert float(error.square().mean() / expected.square().mean()) < 0.01


def test_little_data_is_no_reason_to_fail() -> None:
    flat = Sums.of(torch.ones(1, 4, 2, 2), torch.full((1, 3, 64, 64), 0.5))
    shown = flat.solve()(torch.ones(1, 4, 2, 2))
    assert shown.shape == (1, 3, 8, 8)
    assert torch.allclose(shown, torch.tensor(0.5), atol=0.05)


def test_learning_is_kept(tiny_model: Path, cache: Path) -> None:
    """Until it is plenty; what is in the file is no more than sums, and nobody depends on it."""
    checkpoint = open_checkpoint(str(tiny_model))
    channels = checkpoint.vae.latent_channels
    preview = LatentPreview(checkpoint)
    assert not preview.is_ready
    size = int(ENOUGH**0.5)
    latents, picture = torch.randn(1, channels, size, size), torch.rand(1, 3, 32 * size, 32 * size)
    preview.learn(latents, picture)
    assert preview.is_ready
    [file] = (cache / "previews").iterdir()
    again = LatentPreview(open_checkpoint(str(tiny_model)))
    assert again.is_ready
    assert again.picture(latents).tobytes() == preview.picture(latents).tobytes()
    for damage in (b"", b"x" * 100, b"\xff" * 2_000):
        file.write_bytes(damage)
        assert not LatentPreview(checkpoint).is_ready
    full = LatentPreview(checkpoint)
    full.learn(latents, picture)
    assert full._sums is not None
    full._sums = Sums(full._sums.gram, full._sums.cross, PLENTY)
    before = file.read_bytes()
    full.learn(latents, picture)
    assert file.read_bytes() == before


def test_another_decoder_starts_anew(tiny_model: Path, cache: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_model))
    latents = torch.randn(1, checkpoint.vae.latent_channels, 16, 16)
    LatentPreview(checkpoint).learn(latents, torch.rand(1, 3, 512, 512))
    [weights] = (tiny_model / "vae").glob("*.safetensors")
    state = weights.stat()
    try:
        os.utime(weights, (state.st_atime, state.st_mtime + 5))
        assert not LatentPreview(open_checkpoint(str(tiny_model))).is_ready
    finally:
        os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_no_place_to_keep_it(tiny_model: Path, cache: Path) -> None:
    cache.write_bytes(b"no folder")
    preview = LatentPreview(open_checkpoint(str(tiny_model)))
    preview.learn(torch.randn(1, 32, 16, 16), torch.rand(1, 3, 512, 512))
    assert preview.is_ready


def test_the_builtin_model_brings_its_map(cache: Path, tmp_path: Path) -> None:
    """And learns nothing; its size is a small part of the package. Without the tiny decoder, it makes the previews."""
    folder = tmp_path / "model"
    shutil.copytree(
        open_checkpoint("builtin").folder, folder, copy_function=os.symlink,
        ignore=shutil.ignore_patterns(OWN_FOLDER, "sprint"),
    )  # fmt: skip
    checkpoint = open_checkpoint(str(folder))
    assert (checkpoint.folder / OWN_FILE).stat().st_size < 40_000
    preview = LatentPreview(checkpoint)
    assert preview.is_ready
    preview.learn(torch.randn(1, 32, 8, 8), torch.rand(1, 3, 256, 256))
    assert not cache.exists()
    assert preview.picture(torch.randn(1, 32, 8, 12)).size == (384, 256)
    assert preview.picture(torch.randn(1, 32, 64, 32)).size == (256, 512)
    assert preview.picture(torch.randn(1, 32, 200, 100)).size == (400, 800)


@pytest.mark.parametrize("name", ["flow-dpm", "flow-euler", "scm"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_estimates_of_samplers(name: Any, steps: int) -> None:
    """With a network that knows the picture, every estimate is that picture, and the last one what comes out."""
    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(1, 4, 3, 3, generator=generator) for _ in range(2))
    sampler = make_scheduler(
        name, steps, shift=3.0, draw_noise=lambda: torch.randn(1, 4, 3, 3, generator=generator)
    )
    latents = sampler.start(noise)
    for i in range(steps):
        velocity = true_velocity(name, sampler, i, latents, data)
        estimate = sampler.estimate(i, latents, velocity)
        torch.testing.assert_close(estimate, data, atol=1e-4, rtol=1e-4)
        latents = sampler.step(i, latents, velocity)
    torch.testing.assert_close(latents, data, atol=1e-4, rtol=1e-4)


def true_velocity(name: str, sampler: Any, i: int, latents: Tensor, data: Tensor) -> Tensor:
    """noise - data, as the network would give it for latents that hold `data`."""
    if name != "scm":
        sigma = sampler.sigmas[i]
        return (latents - data) / sigma
    inputs, _ = sampler.inputs(i, latents)
    angle = sampler.angles[i]
    s = math.sin(angle) / (math.sin(angle) + math.cos(angle))
    return (inputs - data) / s
