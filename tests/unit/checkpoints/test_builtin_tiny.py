"""The tiny decoder of the built-in models: the same for both, close to their own decoder, and what previews show."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sana_cli.checkpoints.find_decoder import find_decoder
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.loading.load import load_decoder, load_vae
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.pipeline.latent_preview import LatentPreview

CPU = torch.device("cpu")
WHITE, RED = (255, 255, 255), (222, 40, 45)
MODELS = ("builtin", "builtin-sprint")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SANA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SANA_MODELS", str(tmp_path / "models"))


@pytest.fixture(scope="module")
def autoencoder() -> AutoencoderDC:
    checkpoint = open_checkpoint("builtin")
    return load_vae(checkpoint, dtype="fp32", device=CPU, halves=("encoder", "decoder"))


@pytest.fixture(scope="module")
def latents(autoencoder: AutoencoderDC) -> Tensor:
    """A red disc on white, in the colours of the model's scenes, (1, 32, 8, 8), of unit variance."""
    large = Image.new("RGB", (1024, 1024), WHITE)
    ImageDraw.Draw(large).ellipse((256, 256, 768, 768), fill=RED)
    image = large.resize((256, 256), Image.Resampling.BOX)  # smooth edges
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        return autoencoder.encode(pixels) * autoencoder.config.scaling_factor


@pytest.mark.parametrize("model", MODELS)
def test_it_draws_what_the_full_one_draws(
    model: str, autoencoder: AutoencoderDC, latents: Tensor
) -> None:
    checkpoint = open_checkpoint(model)
    found = replace(checkpoint, decoder=find_decoder("tiny", checkpoint))
    tiny = load_decoder(found, dtype="fp32", device=CPU)
    with torch.inference_mode():
        expected = autoencoder.decode(autoencoder.unscale(latents)).clamp(-1, 1)
        drawn = tiny.decode(tiny.unscale(latents)).clamp(-1, 1)
    error = (drawn - expected).square().mean()
    assert 10 * torch.log10(4 / error) > 28, "dB"


def test_both_models_bring_the_same() -> None:
    found = [find_decoder("tiny", open_checkpoint(model)) for model in MODELS]
    assert all(found)
    assert len({decoder.digest for decoder in found if decoder}) == 1


@pytest.mark.parametrize("model", MODELS)
def test_it_makes_the_preview_of_a_first_picture(
    model: str, autoencoder: AutoencoderDC, latents: Tensor
) -> None:
    preview = LatentPreview(open_checkpoint(model))
    assert preview.is_ready
    shown = np.asarray(preview.picture(latents.clone())).astype(int)
    assert shown.shape == (256, 256, 3)
    assert np.abs(shown[120:136, 120:136].mean((0, 1)) - RED).max() < 12
    assert np.abs(shown[8:24, 8:24].mean((0, 1)) - WHITE).max() < 12
