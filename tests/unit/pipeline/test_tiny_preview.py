"""Previews by a tiny decoder: of a first picture, before a map is learnt, and of every picture where the model brings it."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.find_decoder import OWN_FOLDER, find_decoder, kept_file
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.decoders import DECODERS
from sana_cli.loading.load import load_decoder
from sana_cli.pipeline.latent_preview import ENOUGH, OWN_FILE, LatentPreview

SIDE = int(ENOUGH**0.5)  # positions; one picture of this size is enough to learn a map


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SANA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SANA_MODELS", str(tmp_path / "models"))


@pytest.fixture
def checkpoint(tiny_model: Path) -> Checkpoint:
    """A model with the published autoencoder's latents, which brings neither a map nor a decoder."""
    return open_checkpoint(str(tiny_model))


@pytest.fixture
def kept(decoder_files: ModuleType) -> Path:
    """TAESANA's file where `sana pull --decoder tiny` keeps it."""
    path = kept_file(DECODERS["tiny"])
    path.parent.mkdir(parents=True)
    decoder_files.write_taesana(path)
    return path


@pytest.fixture
def brought(tiny_model: Path, decoder_files: ModuleType, tmp_path: Path) -> Checkpoint:
    """The model in a folder that brings a tiny decoder."""
    folder = shutil.copytree(tiny_model, tmp_path / "model", copy_function=os.symlink)
    decoder_files.write_tiny(folder / "decoders/tiny")
    return open_checkpoint(str(folder))


def some_latents(rows: int = 3, columns: int = 2) -> Tensor:
    return torch.randn(1, 32, rows, columns, generator=torch.Generator().manual_seed(1))


def by_the_decoder(checkpoint: Checkpoint, latents: Tensor) -> np.ndarray:
    """What the tiny decoder itself makes of latents, (H, W, 3) in 0..255."""
    found = replace(checkpoint, decoder=find_decoder("tiny", checkpoint))
    tiny = load_decoder(found, dtype="fp32", device=torch.device("cpu"))
    with torch.inference_mode():
        image = tiny.decode(tiny.unscale(latents))[0]
    return ((image.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy()


def learnt_from_one(preview: LatentPreview, checkpoint: Checkpoint) -> None:
    latents = torch.randn(1, 32, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    preview.learn(latents, torch.full((1, 3, 32 * SIDE, 32 * SIDE), 0.5))
    assert LatentPreview(checkpoint)._has_map, "it is kept"


def assert_drawn_by(picture: Image.Image, checkpoint: Checkpoint, latents: Tensor) -> None:
    assert picture.size == (32 * latents.shape[-1], 32 * latents.shape[-2])
    assert np.abs(np.asarray(picture) - by_the_decoder(checkpoint, latents)).max() <= 1


def test_a_first_picture_has_none_without_one(checkpoint: Checkpoint) -> None:
    assert not LatentPreview(checkpoint).is_ready


def test_the_first_picture_is_shown_by_a_kept_one(checkpoint: Checkpoint, kept: Path) -> None:
    preview = LatentPreview(checkpoint)
    assert preview.is_ready
    assert_drawn_by(preview.picture(some_latents()), checkpoint, some_latents())


def test_a_learnt_map_takes_the_place_of_a_kept_one(checkpoint: Checkpoint, kept: Path) -> None:
    """It is far cheaper; and the picture then comes of the map, which has learnt a flat colour."""
    preview = LatentPreview(checkpoint)
    learnt_from_one(preview, checkpoint)
    shown = np.asarray(preview.picture(some_latents()))
    assert np.abs(shown - 0.75 * 255).max() <= 3


def test_one_that_the_model_brings_shows_every_picture(brought: Checkpoint) -> None:
    preview = LatentPreview(brought)
    assert_drawn_by(preview.picture(some_latents()), brought, some_latents())
    learnt_from_one(preview, brought)
    assert_drawn_by(preview.picture(some_latents()), brought, some_latents())


def test_large_latents_are_shown_in_tiles(brought: Checkpoint) -> None:
    latents = some_latents(9, 17)  # more than a tile each way
    assert_drawn_by(LatentPreview(brought).picture(latents), brought, latents)


@pytest.mark.parametrize("damage", ["cut", "other tensors"])
def test_a_damaged_one_is_no_reason_to_fail(
    damage: str, checkpoint: Checkpoint, kept: Path
) -> None:
    if damage == "cut":
        kept.write_bytes(kept.read_bytes()[:1000])
    else:
        torch.save({"1.weight": torch.zeros(3)}, kept)
    preview = LatentPreview(checkpoint)
    assert not preview.is_ready
    learnt_from_one(preview, checkpoint)
    assert preview.is_ready
    assert preview.picture(some_latents()).size == (64, 96)


def test_one_of_other_latents_shows_nothing(
    builtin: Checkpoint, kept: Path, tmp_path: Path
) -> None:
    """TAESANA decodes the published autoencoder's; the built-in model's are others."""
    bare = tmp_path / "bare"  # neither a map nor a decoder of its own
    omitted = shutil.ignore_patterns(OWN_FILE, OWN_FOLDER, "sprint")
    shutil.copytree(builtin.folder, bare, copy_function=os.symlink, ignore=omitted)
    assert not LatentPreview(open_checkpoint(str(bare))).is_ready
