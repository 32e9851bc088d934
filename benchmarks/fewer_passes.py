"""Measure what `--guidance-interval`, `--cache` and fewer steps save, and their cost in quality, on
the built-in model.

`python -m benchmarks.fewer_passes` draws the same held-out prompts and seeds in each way, one
picture at a time as `sana generate` does, and compares with the pictures of the full run (PSNR) and
with the prompts (the checker of `training/`). Ctrl-C ends it with what has been drawn. Passes,
blocks and CPU seconds (of denoising, one thread) are shares of the full run's. Writes
`benchmarks/results/fewer-passes.json`.
"""

import json
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.quality import Judge, held_out
from benchmarks.record import RESULTS, record
from sana_cli import __version__
from sana_cli.bench.machine import machine
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.choices import SchedulerName
from sana_cli.config.generation import GenerationOptions
from sana_cli.images.tensors import to_image
from sana_cli.loading.load import accelerate, load_prompt_encoder, load_transformer, load_vae
from sana_cli.pipeline.decode import decode
from sana_cli.pipeline.denoise import denoise, init_noise
from sana_cli.pipeline.guidance import Passes
from sana_cli.pipeline.pass_count import PassCount
from sana_cli.pipeline.text import encode_prompt
from sana_cli.request.params import GenerationParams, resolve
from sana_cli.schedulers import make_scheduler
from training.checker import Checker
from training.sprites import load_sprites

_CPU = torch.device("cpu")
INTERVALS = ((0.0, 0.6), (0.0, 0.4), (0.5, 1.0))
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.3)
BOTH = ((0.6, 0.1),)  # the interval's end, and the threshold
STEPS: tuple[tuple[SchedulerName, int], ...] = (
    ("flow-dpm", 14), ("flow-dpm", 10), ("flow-euler", 10), ("flow-euler", 6),
)  # fmt: skip


def ways(full: GenerationParams) -> Iterator[tuple[str, GenerationParams]]:
    """Yield the options to type and the settings they mean; the full run comes first."""
    yield "", full
    for low, high in INTERVALS:
        settings = replace(full, guidance_interval=(low, high))
        yield f"--guidance-interval {low:g}-{high:g}", settings
    for cache in THRESHOLDS:
        yield f"--cache {cache:g}", replace(full, cache=cache)
    for high, cache in BOTH:
        settings = replace(full, guidance_interval=(0.0, high), cache=cache)
        yield f"--guidance-interval 0-{high:g} --cache {cache:g}", settings
    for scheduler, steps in STEPS:
        words = "" if scheduler == full.scheduler else f"--scheduler {scheduler} "
        yield f"{words}--steps {steps}", replace(full, steps=steps, scheduler=scheduler)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A picture and its cost."""

    pixels: np.ndarray[Any, Any]  # uint8 (H, W, 3)
    passes: PassCount
    seconds: float  # CPU time of denoising


class Drawer:
    """The model, and the texts of all questions."""

    def __init__(self, judge: Judge) -> None:
        checkpoint = open_checkpoint("builtin")
        self.questions = judge.asked
        self.full = resolve(GenerationOptions(prompt="x"), checkpoint)
        encoder = load_prompt_encoder(checkpoint, dtype="fp32", device=_CPU)
        self.transformer = load_transformer(checkpoint, dtype="fp32", device=_CPU)
        self.vae = load_vae(checkpoint, dtype="fp32", device=_CPU)
        for part in (encoder.model, self.transformer, self.vae):
            accelerate(part, _CPU, "auto")
        texts = [encode_prompt(encoder, replace(self.full, prompt=q.prompt)) for q in judge.asked]
        with torch.inference_mode():
            self.contexts = [
                [self.transformer.encode_text(embeds) for embeds in text.branches] for text in texts
            ]

    def draw(self, question: int, settings: GenerationParams) -> Drawn:
        """The picture of a question, in one way."""
        seed, contexts = self.questions[question].seed, self.contexts[question]
        noise, more = init_noise(seed, self.transformer.config.in_channels, settings)
        sampler = make_scheduler(
            settings.scheduler, settings.steps, shift=settings.flow_shift, draw_noise=more
        )
        passes = Passes(settings)
        velocity_at = partial(passes.velocity, self.transformer, contexts)
        started = time.process_time()
        latents = denoise(velocity_at, noise, sampler)
        seconds = time.process_time() - started
        pixels = np.asarray(to_image(decode(self.vae, latents)))
        return Drawn(pixels=pixels, passes=passes.count, seconds=seconds)


def main(
    prompts: Annotated[int, typer.Option(help="Held-out pictures a row.")] = 150,
    results: Annotated[Path, typer.Option(help="Where the document goes.")] = RESULTS,
) -> None:
    """Draw, score, print and keep."""
    torch.set_num_threads(1)
    asked = held_out(prompts)
    random.Random(0).shuffle(asked)  # whatever is drawn has some of every group
    judge = Judge(asked, Checker(load_sprites()))
    drawer = Drawer(judge)
    settings_of = dict(ways(drawer.full))
    drawn: dict[str, list[Drawn]] = {words: [] for words in settings_of}
    with suppress(KeyboardInterrupt):  # pictures so far are scored
        for i in range(prompts):  # each in all ways, so that a busy machine hits all alike
            for words, settings in settings_of.items():
                drawn[words].append(drawer.draw(i, settings))
            print(f"{i + 1} of {prompts}", flush=True)
    done = min(map(len, drawn.values()))
    judge.asked = asked[:done]
    blocks = drawer.transformer.config.num_layers
    found: list[dict[str, Any]] = []
    for words, pictures in drawn.items():
        row = _row(judge, pictures[:done], drawn[""][:done], blocks)
        points = row["accuracy"] - (found[0] if found else row)["accuracy"]
        found.append({"options": words, **row, "points": round(points, 2)})
        print(json.dumps(found[-1]), flush=True)
    document = {
        "benchmark": "fewer-passes",
        "date": date.today().isoformat(),
        "version": __version__,
        "machine": machine() | {"threads": 1},
        "model": "builtin",
        "prompts": done,
        "full": f"{drawer.full.scheduler}, {drawer.full.steps} steps, guidance {drawer.full.guidance_scale:g}",
        "rows": found,
    }
    record("fewer-passes", document, folder=results)
    print(json.dumps(document))


def _row(judge: Judge, drawn: list[Drawn], full: list[Drawn], blocks: int) -> dict[str, Any]:
    """Scores, and shares of what the full run took."""
    computed = sum(picture.passes.computed for picture in drawn)
    ended = sum(picture.passes.first_block_only for picture in drawn)
    passes = sum(picture.passes.computed for picture in full)
    seconds = sum(picture.seconds for picture in drawn) / sum(picture.seconds for picture in full)
    return {
        **judge.score_pictures(np.stack([picture.pixels for picture in drawn])),
        "passes_computed": round(computed / passes, 4),
        "passes_of_one_block": round(ended / passes, 4),
        "blocks_run": round((computed + ended / blocks) / passes, 4),
        "cpu_seconds": round(seconds, 4),
    }


if __name__ == "__main__":
    typer.run(main)
