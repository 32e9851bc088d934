"""Other decoders: DC-AE-Lite against diffusers, TAESANA against its published description; whole and in tiles."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC as TheirAutoencoder
from PIL import Image

ANY_PIXEL = 2  # of 255
ON_AVERAGE = 0.2  # of 255
WAYS: dict[str, tuple[object, ...]] = {
    "whole": ("--decode", "whole"),
    "tiles": ("--decode", "exact-tiles", "--tile", 32),
    "streamed": ("--plan", "streamed"),
}
SIZE = (96, 64)


@pytest.fixture
def decoders(decoder_files: ModuleType, reference: ModuleType, tmp_path: Path) -> dict[str, Path]:
    return {
        "lite": decoder_files.write_lite(tmp_path / "lite", reference),
        "taesana": decoder_files.write_taesana(tmp_path / "taesana_decoder.pth"),
    }


@pytest.fixture
def expected(
    pipelines: Any, reference: ModuleType, decoder_files: ModuleType, decoders: dict[str, Path]
) -> Callable[[str], np.ndarray]:
    """The picture of diffusers' latents by an implementation that is not ours, (H, W, 3) uint8."""

    def drawn(name: str) -> np.ndarray:
        pipeline = pipelines.pipeline("plain")
        own = pipeline.vae
        latents = pipeline(
            prompt=reference.PROMPT, generator=torch.Generator().manual_seed(7), width=SIZE[0],
            height=SIZE[1], num_inference_steps=3, guidance_scale=4.5, output_type="latent",
            use_resolution_binning=False,
        ).images  # fmt: skip
        with torch.no_grad():
            if name == "lite":
                vae = TheirAutoencoder.from_pretrained(decoders["lite"]).eval()
                image = vae.decode(latents / own.config.scaling_factor).sample / 2 + 0.5
            else:
                image = decoder_files.taesana(decoder_files.taesana_tensors(), latents)
        pixels = (image[0].clamp(0, 1) * 255).round().permute(1, 2, 0)
        return pixels.numpy().astype(np.uint8)

    return drawn


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["lite", "taesana"])
def test_pictures(
    name: str,
    way: str,
    decoders: dict[str, Path],
    expected: Callable[[str], np.ndarray],
    sana_draw: Callable[..., list[np.ndarray]],
    pipelines: Any,
    reference: ModuleType,
) -> None:
    (ours,) = sana_draw(
        pipelines.folder("plain"), reference.PROMPT, "--size", "96x64", "--steps", 3, "--guidance", 4.5,
        "--seed", 7, "--decoder", decoders[name], *WAYS[way],
    )  # fmt: skip
    theirs = expected(name)
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert theirs.std() > 20, "a flat picture compares nothing"
    assert difference.max() <= ANY_PIXEL
    assert difference.mean() <= ON_AVERAGE


def test_a_decoder_without_its_encoder(
    decoders: dict[str, Path],
    decoder_files: ModuleType,
    sana_draw: Callable[..., list[np.ndarray]],
    pipelines: Any,
    tmp_path: Path,
) -> None:
    """The file may hold the decoder's half alone; the model's own encoder reads the picture to begin with."""
    model = pipelines.folder("plain")
    begin = tmp_path / "begin.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        begin
    )
    words = ("--image", begin, "--steps", 3, "--seed", 1, "--decoder", decoders["lite"])
    (whole,) = sana_draw(model, "a fox", *words)
    decoder_files.without_encoder(decoders["lite"])
    (half,) = sana_draw(model, "a fox", *words)
    assert np.array_equal(whole, half)
    (own,) = sana_draw(model, "a fox", *words[:-2])
    assert not np.array_equal(own, half)
