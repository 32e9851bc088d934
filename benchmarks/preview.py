"""Measure how close previews come to the finished picture, and fit the built-in model's own map.

`python -m benchmarks.preview` draws pictures with the built-in model, learns the map from some of
them and compares its previews of the others with the pictures: of finished latents, and of the
estimates after each tenth of the steps. For comparison it fits the usual map, from one position's
channels to one colour. The document goes to `benchmarks/results/preview.json`; `--ship` also writes
the map into the model's folder.
"""

# C latent channels, h w latent grid, S side of the compared pictures

import json
import time
from datetime import date
from functools import partial
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record import record
from calibration.collect import encode_texts, make_contexts, plan_drawings
from calibration.prompts import vocabulary_prompts
from sana_cli.bench.machine import machine
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.loading.load import accelerate, load_prompt_encoder, load_transformer, load_vae
from sana_cli.pipeline.decode import decode
from sana_cli.pipeline.denoise import denoise, init_noise
from sana_cli.pipeline.guidance import guided_velocity
from sana_cli.pipeline.latent_preview import ENOUGH, OWN_FILE, PLENTY, PreviewMap, Sums
from sana_cli.schedulers import make_scheduler

LEARNT, COMPARED = 96, 24  # pictures
SIDE = 64  # pixels, at which previews and pictures are compared
STEPS = 10


def draw(count: int) -> tuple[list[list[Tensor]], list[Tensor]]:
    """Estimates of every step, (1, C, h, w), the last one the finished latents; and decoded pictures."""
    checkpoint, device = open_checkpoint("builtin"), torch.device("cpu")
    assert checkpoint.own.vocabulary
    prompts = vocabulary_prompts(checkpoint.own.vocabulary, count, seed=0)
    drawings = plan_drawings(checkpoint, prompts, first_seed=0, steps=STEPS)
    encoder = load_prompt_encoder(checkpoint, dtype="fp32", device=device)
    with torch.inference_mode():
        texts = encode_texts(encoder, drawings)
    transformer = load_transformer(checkpoint, dtype="fp32", device=device)
    vae = load_vae(checkpoint, dtype="fp32", device=device)
    accelerate(transformer, device, "auto")
    estimates, pictures = [], []
    for text, drawing in zip(texts, drawings, strict=True):
        settings = drawing.settings
        seen: list[Tensor] = []
        noise, more = init_noise(drawing.seed, transformer.config.in_channels, settings)
        sampler = make_scheduler(
            settings.scheduler, settings.steps, shift=settings.flow_shift, draw_noise=more
        )
        with torch.inference_mode():
            contexts = make_contexts(transformer, text)
        velocity = partial(
            guided_velocity, transformer, contexts, guidance_scale=settings.guidance_scale
        )
        latents = denoise(velocity, noise, sampler, preview=partial(_keep, seen))
        estimates.append([*seen[:-1], latents])
        pictures.append(decode(vae, latents))
    return estimates, pictures


def _keep(seen: list[Tensor], i: int, estimate: Tensor) -> None:
    seen.append(estimate)


def learn(latents: list[Tensor], pictures: list[Tensor]) -> PreviewMap:
    sums = [Sums.of(x, y) for x, y in zip(latents, pictures, strict=True)]
    total = sums[0]
    for other in sums[1:]:
        total = total.plus(other)
    return total.solve()


def usual_map(latents: list[Tensor], pictures: list[Tensor]) -> Any:
    """Fit one position's channels to one colour, by least squares."""
    flat = torch.cat(latents).permute(0, 2, 3, 1).flatten(0, 2)
    ones = torch.ones(len(flat), 1)
    colours = F.avg_pool2d(torch.cat(pictures).clamp(-1, 1), 32).permute(0, 2, 3, 1).flatten(0, 2)
    solved = torch.linalg.lstsq(torch.cat([flat, ones], 1), colours).solution  # (C + 1, 3)
    return lambda x: F.conv2d(x, solved[:-1].T[..., None, None], solved[-1])


def compare(shown: list[Tensor], pictures: list[Tensor]) -> dict[str, float]:
    """Means over pictures of PSNR and correlation, at SIDE x SIDE pixels."""
    psnr, correlation = [], []
    for small, picture in zip(shown, pictures, strict=True):
        preview = F.interpolate(small, size=(SIDE, SIDE), mode="bicubic").clamp(-1, 1)
        truth = F.interpolate(picture.clamp(-1, 1), size=(SIDE, SIDE), mode="area")
        psnr.append(10 * torch.log10(4 / (preview - truth).square().mean()))
        correlation.append(torch.corrcoef(torch.stack([preview.flatten(), truth.flatten()]))[0, 1])
    return {
        "psnr_db": round(float(torch.stack(psnr).mean()), 1),
        "correlation": round(float(torch.stack(correlation).mean()), 3),
    }


def milliseconds(work: Any, *, runs: int = 20) -> float:
    """Processor time of one run, which a busy machine disturbs less than that of a clock."""
    work()
    started = time.process_time()
    for _ in range(runs):
        work()
    return round((time.process_time() - started) / runs * 1e3, 2)


@torch.inference_mode()
def main(
    ship: Annotated[bool, typer.Option("--ship", help="Write the built-in model's map.")] = False,
) -> None:
    estimates, pictures = draw(LEARNT + COMPARED)
    finished = [seen[-1] for seen in estimates]
    held = pictures[LEARNT:]
    rows: list[dict[str, Any]] = []

    def add(name: str, learnt_from: int, made: Any, step: int = STEPS) -> None:
        shown = [made(seen[step - 1]) for seen in estimates[LEARNT:]]
        rows.append({"map": name, "learnt_from": learnt_from, "step": step, **compare(shown, held)})
        print(rows[-1], flush=True)

    for count in (1, 4, 16, LEARNT):
        add("3x3 latents to 4x4 pixels", count, learn(finished[:count], pictures[:count]))
        if count >= 4:
            add("one position to one colour", count, usual_map(finished[:count], pictures[:count]))
    best = learn(finished[:LEARNT], pictures[:LEARNT])
    for step in range(1, STEPS):
        add("3x3 latents to 4x4 pixels", LEARNT, best, step)
    latents, picture = torch.randn(1, 32, 32, 32), torch.randn(1, 3, 1024, 1024)
    document = {
        "date": str(date.today()),
        "machine": machine(),
        "command": "python -m benchmarks.preview",
        "positions": {"of_one_picture": 64, "enough": ENOUGH, "plenty": PLENTY},
        "compared": {"pictures": COMPARED, "side": SIDE, "steps": STEPS},
        "rows": rows,
        "processor_ms_at_1024": {
            "preview": milliseconds(lambda: best(latents)),
            "learn": milliseconds(lambda: Sums.of(latents, picture)),
        },
    }
    if ship:
        path = open_checkpoint("builtin").folder / OWN_FILE
        halves = {"weight": best.weight.half().contiguous(), "bias": best.bias.half().contiguous()}
        path.write_bytes(save(halves))
    record("preview", document)
    print(json.dumps(document))


if __name__ == "__main__":
    typer.run(main)
