"""Four fixed prompts drawn by the float and by the quantized model: one picture file and PSNR.

Columns: float, quantized, eight times their difference around grey.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from calibration.collect import draw_latents, encode_texts, plan_drawings
from calibration.prompts import compared_prompts
from sana_cli.checkpoint import Checkpoint, open_checkpoint
from sana_cli.loading import load_prompt_encoder, load_transformer, load_vae
from sana_cli.pipeline import decode
from sana_cli.pixels import to_image
from sana_cli.precision import plan_dtypes
from sana_cli.stages import Reporter, release_memory

FILE = "comparison.png"
_FIRST_SEED = 1
_CELL = 512  # pixels at most: the file is for looking at
_DIFFERENCE = 8

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was drawn, and how close: PSNR in dB of each prompt's 8-bit pictures."""

    prompts: list[str]
    seeds: list[int]
    psnr_db: list[float]


def compare(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    steps: int | None,
    device: torch.device,
    reporter: Reporter,
) -> Comparison:
    """Draw with both models and write `comparison.png` into the quantized folder."""
    prompts = compared_prompts(checkpoint.own.vocabulary)
    quantized = open_checkpoint(str(folder))
    pairs = [
        draw(model, prompts, title=title, steps=steps, device=device, reporter=reporter)
        for model, title in ((checkpoint, "draw float"), (quantized, "draw quantized"))
    ]
    rows = list(zip(*pairs, strict=True))
    sheet([_row(before, after) for before, after in rows]).save(folder / FILE)
    return Comparison(
        prompts=prompts,
        seeds=[_FIRST_SEED + i for i in range(len(prompts))],
        psnr_db=[round(psnr_db(before, after), 2) for before, after in rows],
    )


def draw(
    checkpoint: Checkpoint,
    prompts: list[str],
    *,
    title: str,
    steps: int | None,
    device: torch.device,
    reporter: Reporter,
) -> list[Pixels]:
    """One picture a prompt, uint8 (H, W, 3), with one part of the model loaded at a time."""
    dtypes = plan_dtypes("auto", checkpoint.trained_precision, device)
    drawings = plan_drawings(checkpoint, prompts, first_seed=_FIRST_SEED, steps=steps)
    total = sum(drawing.settings.steps for drawing in drawings)
    with reporter.stage(title, total) as advance:
        encoder = load_prompt_encoder(checkpoint, dtype=dtypes.text_encoder, device=device)
        texts = encode_texts(encoder, drawings)
        del encoder
        release_memory(device)
        transformer = load_transformer(checkpoint, dtype=dtypes.transformer, device=device)
        latents: list[Tensor] = [
            draw_latents(transformer, text, drawing, after_step=advance)
            for text, drawing in zip(texts, drawings, strict=True)
        ]
        del transformer
        release_memory(device)
        vae = load_vae(checkpoint, dtype=dtypes.vae, device=device)
        pictures = [np.asarray(to_image(decode(vae, one))) for one in latents]
    release_memory(device)
    return pictures


def psnr_db(before: Pixels, after: Pixels) -> float:
    """Of 8-bit pictures; 99 for equal ones, so that it stays a number in JSON."""
    error = float(((before.astype(np.float32) - after.astype(np.float32)) ** 2).mean())
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def _row(before: Pixels, after: Pixels) -> Pixels:
    difference = after.astype(np.int32) - before.astype(np.int32)
    amplified = (128 + _DIFFERENCE * difference).clip(0, 255).astype(np.uint8)
    return np.concatenate([before, after, amplified], axis=1)


def sheet(rows: list[Pixels]) -> Image.Image:
    """Rows under each other, shrunk so that a cell is at most _CELL pixels wide."""
    image = Image.fromarray(np.concatenate(rows))
    factor = min(1.0, 3 * _CELL / image.width)
    size = round(image.width * factor), round(image.height * factor)
    return image if factor == 1 else image.resize(size, Image.Resampling.LANCZOS)
