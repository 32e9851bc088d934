"""Draw four fixed prompts with the float and with the quantized model: one labelled sheet, and PSNR.

The layers' own arithmetic draws, not the kernels of this machine; `sana compare` draws as `sana generate` does.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from calibration.collect import draw_latents, encode_texts, plan_drawings
from calibration.prompts import compared_prompts
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.images.comparison_sheet import Closeness, Pixels, Row, caption, psnr_db, sheet
from sana_cli.images.tensors import to_image
from sana_cli.loading.load import load_prompt_encoder, load_transformer, load_vae
from sana_cli.pipeline.decode import decode
from sana_cli.progress import Reporter
from sana_cli.system.precision import plan_dtypes
from sana_cli.system.torch_memory import release_memory

FILE = "comparison.png"
_FIRST_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The drawn pictures, and the PSNR in dB of each prompt's 8-bit pictures."""

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
    pictures = list(zip(*pairs, strict=True))
    seeds = [_FIRST_SEED + i for i in range(len(prompts))]
    rows = [
        Row(before=before, after=after, caption=caption(prompt, seed, Closeness.of(before, after)))
        for prompt, seed, (before, after) in zip(prompts, seeds, pictures, strict=True)
    ]
    side = max(rows[0].before.shape)
    assert quantized.manifest is not None
    labels = checkpoint.name, f"quantized: {quantized.manifest.recipe}"
    sheet(rows, labels, count=len(rows), side=side).save(folder / FILE)
    return Comparison(
        prompts=prompts,
        seeds=seeds,
        psnr_db=[round(psnr_db(before, after), 2) for before, after in pictures],
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
    """Draw a picture per prompt, uint8 (H, W, 3), with one part of the model loaded at a time."""
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
