"""The pairs and the loss that a tiny decoder learns from, and that a run stops, resumes and is exported."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sana_cli.checkpoints.find_decoder import find_decoder
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.loading.load import load_decoder
from sana_cli.models.tiny_decoder import TinyDecoder
from training.data import whole_pictures
from training.decoder_pool import CROP, Batch, Pool, crop_chances, crop_weight, to_patches
from training.distil_decoder import (
    CONFIG,
    FILE,
    Student,
    in_patches,
    load_tiny_decoder,
    loss_and_gradient,
)
from training.export_distilled import export_tiny_decoder
from training.presets import DistilDecoderSettings
from training.runs import Budget, save_checkpoint, to_unit_range
from training.sprites import Sprites

PATCH = CONFIG.patch_size


@pytest.fixture
def pool(sprites: Sprites) -> Pool:
    """Pictures, and latents that hold the mean colour of their position, so that pairs can be recognised."""
    _, images = whole_pictures(sprites, random.Random(0), 6)
    means = images.reshape(6, 8, 32, 8, 32, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
    latents = np.zeros((6, 32, 8, 8), np.float16)
    latents[:, :3] = means / 255
    made = Pool(limit=4, patch=PATCH, rng=np.random.default_rng(0))
    made.add(latents, images)
    return made


@pytest.mark.parametrize(("kind", "side"), [("wholes", 8), ("crops", CROP)])
def test_latents_and_patches_belong_together(pool: Pool, kind: str, side: int) -> None:
    batch: Batch = getattr(pool, kind)(5)
    finer = 32 // PATCH
    assert batch.latents.shape == (5, 32, side, side)
    assert batch.patches.shape == (5, side * finer, side * finer, 3 * PATCH**2)
    assert (batch.weight is None) == (kind == "wholes")
    pixels = F.pixel_shuffle(batch.patches.permute(0, 3, 1, 2), PATCH)
    torch.testing.assert_close(F.avg_pool2d(pixels, 32), batch.latents[:, :3], atol=2e-3, rtol=0)


def test_the_oldest_pairs_are_replaced(pool: Pool) -> None:
    assert len(pool) == 4
    marked = np.full((3, 32, 8, 8), 7, np.float16)
    pool.add(marked, np.zeros((3, 256, 256, 3), np.uint8))
    found = [bool((pool.wholes(1).latents == 7).all()) for _ in range(200)]
    assert len(pool) == 4
    assert 0 < sum(found) < 200, "three of four are new"


def test_patches_are_those_of_the_last_convolution() -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 32, 3), dtype=np.uint8)
    expected = F.pixel_unshuffle(torch.from_numpy(image).permute(2, 0, 1)[None].float(), PATCH)
    patches = torch.from_numpy(to_patches(image, PATCH)).permute(2, 0, 1)[None].float()
    assert patches.equal(expected)
    model = TinyDecoder(CONFIG)
    z = torch.randn(1, 32, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        shuffled = 2 * F.pixel_shuffle(in_patches(model, z).permute(0, 3, 1, 2), PATCH) - 1
        torch.testing.assert_close(shuffled, model(z))


def test_crops_are_where_something_is() -> None:
    image = np.full((256, 256, 3), 90, np.uint8)
    image[32:96, 160:224] = np.random.default_rng(0).integers(0, 255, (64, 64, 3))
    chances = crop_chances(image).reshape(5, 5)
    assert chances.sum() == pytest.approx(1)
    assert chances[:2, 3:].min() > 100 * chances[3:].max()
    assert crop_chances(np.zeros((256, 256, 3), np.uint8)) == pytest.approx(np.full(25, 0.04))


def test_nothing_is_asked_where_a_crop_was_cut() -> None:
    weight = crop_weight((False, True, True, False), PATCH)[..., 0]
    assert weight.shape == (32, 32)
    assert weight[:-4, 4:].min() == 1
    assert weight[-4:].max() == weight[:, :4].max() == 0


@pytest.mark.parametrize("cut", [True, False])
def test_the_gradient_is_that_of_the_loss(cut: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    out = torch.rand(3, 32, 32, 48, generator=generator, requires_grad=True)
    weight = crop_weight((True, True, False, True), PATCH).expand(3, -1, -1, -1) if cut else None
    patches = torch.rand(3, 32, 32, 48, generator=generator)
    batch = Batch(latents=torch.zeros(0), patches=patches, weight=weight)
    error = 2 * (out - patches) * (1 if weight is None else weight)
    mse, l1 = error.square().mean((1, 2, 3)), error.abs().mean((1, 2, 3))
    expected = (0.6 * (mse + 2e-4).log() + 0.4 * (l1 + 2e-3).log()).mean()
    expected.backward()
    loss, gradient = loss_and_gradient(out.detach(), batch)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, out.grad)


def test_a_run_resumes_and_is_exported(pool: Pool, tmp_path: Path) -> None:
    """What is exported, in 8 bits, draws nearly what the averaged weights draw, as a model's own decoder."""
    settings = DistilDecoderSettings(warmup_steps=1)
    budget = Budget(minutes=1)
    student = Student.resumed(tmp_path / FILE, budget, settings)
    budget.start()
    first = student.step(pool.wholes(2), budget)
    budget.tick()
    student.ema.update(student.model)
    save_checkpoint(tmp_path / FILE, student.state_dict(budget))
    assert first.isfinite()
    again = Budget(minutes=1)
    resumed = Student.resumed(tmp_path / FILE, again, settings)
    assert (again.step, again.used_s) == (1, budget.used_s)
    for name, value in student.model.state_dict().items():
        assert resumed.model.state_dict()[name].equal(value), name
    export_tiny_decoder(tmp_path, tmp_path / "tiny")
    checkpoint = open_checkpoint("builtin")
    found = find_decoder(str(tmp_path / "tiny"), checkpoint)
    assert found is not None
    assert found.config == CONFIG
    stored = load_decoder(
        replace(checkpoint, decoder=found), dtype="fp32", device=torch.device("cpu")
    )
    latents = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = load_tiny_decoder(tmp_path, torch.device("cpu"))(latents)
        noise = (stored.decode(stored.unscale(latents)) - expected).square().mean()
    assert noise < 1e-3 * expected.var(), "30 dB"


def test_pictures_in_range_are_what_is_learnt() -> None:
    """The first estimate is a middle grey, from which the loss starts."""
    model = Student(DistilDecoderSettings()).model
    with torch.no_grad():
        out = model(torch.zeros(1, 32, 2, 2))
    grey = to_unit_range(np.full((1, 64, 64, 3), 127, np.uint8), torch.device("cpu"))
    assert (out - grey).abs().mean() < 0.2
