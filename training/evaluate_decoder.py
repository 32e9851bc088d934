"""Compare another decoder with the model's own: the same latents, PSNR between their pictures, and the checker on both."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.tiny_decoder import TinyAutoencoder
from training.checker import Checker, judge
from training.dc_ae import psnr
from training.evaluate import (
    BATCH,
    TESTS,
    Painter,
    Question,
    load_painter,
    questions,
    share,
)
from training.runs import save_grid, to_uint8
from training.sampling import sample_latents
from training.sprites import Sprites

# B batch, C latent channels, h w latent grid, H W pixels

_SHOWN = 24  # pairs in the contact sheet
_TIMED = 7  # runs of a decoder, of which the fastest counts


def evaluate_decoder(
    model: str, decoder: str, sprites: Sprites, results: Path, *, scale: float, command: str
) -> dict[str, object]:
    """Score both decoders; writes decoder.json and a sheet of pairs into `results` and returns the document."""
    from sana_cli.checkpoints.opening import open_checkpoint

    other = load_other(open_checkpoint(model), decoder)
    painter, checker, asked = load_painter(model), Checker(sprites), questions(scale=scale)
    qualities: list[float] = []
    hits: dict[str, list[bool]] = {"full": [], decoder: []}
    shown: list[np.ndarray] = []
    latents = torch.zeros(0)
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        latents = drawn(painter, part)
        full, mine = pictures(painter.vae, latents), pictures(other, latents)
        qualities += [psnr(m[None], f[None]) for m, f in zip(mine, full, strict=True)]
        for name, images in (("full", full), (decoder, mine)):
            hits[name] += [
                TESTS[q.group](judge(checker.read(image), q.scene))
                for q, image in zip(part, to_uint8(images), strict=True)
            ]
        shown += [
            np.concatenate(pair, 1) for pair in zip(to_uint8(full), to_uint8(mine), strict=True)
        ]
    document: dict[str, object] = {
        "benchmark": "another decoder compared with the model's own, on the latents that the model draws",
        "command": command,
        "model": Path(model).name,
        "prompts": len(asked),
        "parameters": sum(p.numel() for p in other.decoder.parameters()),
        "full": share(hits["full"], bool),
        Path(decoder).name: share(hits[decoder], bool),
        "psnr_db_to_full": round(float(np.mean(qualities)), 2),
        "psnr_db_worst_5_percent": round(float(np.quantile(qualities, 0.05)), 2),
        "cpu_seconds_full": cpu_seconds(painter.vae, latents[:1]),
        f"cpu_seconds_{Path(decoder).name}": cpu_seconds(other, latents[:1]),
        "cpu_seconds": f"of one picture, one thread, fp32, the fastest of {_TIMED}",
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "decoder.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    save_grid(results / "decoder.png", np.stack(shown[:_SHOWN]), columns=4)
    return document


def load_other(checkpoint: Checkpoint, decoder: str) -> AutoencoderDC | TinyAutoencoder:
    """The decoder that `--decoder` names for a model, fp32 on the CPU."""
    from sana_cli.checkpoints.find_decoder import find_decoder
    from sana_cli.loading.load import load_decoder

    found = replace(checkpoint, decoder=find_decoder(decoder, checkpoint))
    return load_decoder(found, dtype="fp32", device=torch.device("cpu"))


def drawn(painter: Painter, asked: list[Question]) -> Tensor:
    """Latents (B, C, h, w) of unit variance."""
    return sample_latents(
        painter.transformer, painter.text_encoder, painter.tokenizer,
        [q.prompt for q in asked], seeds=[q.seed for q in asked], steps=painter.steps,
        guidance=painter.guidance, shift=painter.shift, scheduler=painter.scheduler,
    )  # fmt: skip


@torch.inference_mode()
def pictures(vae: AutoencoderDC | TinyAutoencoder, latents: Tensor) -> Tensor:
    """Pictures (B, 3, H, W), nominally -1..1, one by one: a batch of large maps leaves the caches."""
    return torch.cat([vae.decode(vae.unscale(latent[None])) for latent in latents])


def cpu_seconds(vae: AutoencoderDC | TinyAutoencoder, latents: Tensor) -> float:
    """Processor seconds of decoding these latents with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        spent = []
        for _ in range(_TIMED):
            started = time.process_time()
            pictures(vae, latents)
            spent.append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    return round(min(spent), 4)
