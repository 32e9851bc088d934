"""Draw fresh prompts, half of the composed ones of held-out combinations, score them, and write counts, intervals and sheets.

The model that is scored is a checkpoint folder, read by `sana_cli.loading.load` and drawn with its samplers, so what is
measured is what ships. The checker itself is first scored on fresh ground truth passed through the autoencoder.
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sana_cli.images.comparison_sheet import psnr_db
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.schedulers import SchedulerName
from training.captions import full_caption
from training.checker import Checker, Reading, Verdict, judge
from training.dc_ae import psnr
from training.runs import save_grid, to_uint8, to_unit_range
from training.sampling import sample_latents
from training.scenes import Mix, Scene, Split, Thing, draw, is_held_out, sample_scene
from training.sprites import Sprites
from training.text import build_tokenizer
from training.vocabulary import BACKGROUND_COLOURS, OBJECT_SIZES, OBJECTS, STYLES

EVALUATION_SEED = 20_261_123
BATCH = 24
STEP_COUNTS = (2, 4, 6, 8, 10, 14, 20, 28, 50)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt: which group it counts for, what it should show, and whether its combination was held out."""

    group: str
    scene: Scene
    seed: int

    @property
    def prompt(self) -> str:
        return full_caption(self.scene)

    @property
    def held_out(self) -> bool:
        return is_held_out(self.scene)


@dataclass(frozen=True, kw_only=True)
class Painter:
    """A loaded model and how it draws."""

    text_encoder: torch.nn.Module
    tokenizer: object
    transformer: torch.nn.Module
    vae: AutoencoderDC
    steps: int
    guidance: float
    shift: float
    scheduler: SchedulerName = "flow-dpm"
    sigmas: tuple[float, ...] = ()  # noise levels of a Flow-Euler, in place of the scheduler's own

    @torch.inference_mode()
    def paint(self, prompts: list[str], seeds: list[int]) -> np.ndarray:
        """uint8 (B, 256, 256, 3), one seed a prompt."""
        latents = sample_latents(
            self.transformer, self.text_encoder, self.tokenizer, prompts, seeds=seeds,
            steps=self.steps, guidance=self.guidance, shift=self.shift, scheduler=self.scheduler,
            sigmas=self.sigmas,
        )  # fmt: skip
        return to_uint8(self.vae.decode(latents / self.vae.config.scaling_factor))


def load_painter(model: str, *, steps: int = 0, guidance: float = 0.0) -> Painter:
    """A checkpoint folder or `builtin`, with its own defaults where none are given.

    Or what `distil-steps` leaves in a run folder, `sprint.pt`, with the other parts of `builtin-sprint`.
    """
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.loading.load import accelerate, load_prompt_encoder, load_transformer, load_vae
    from training.distil_steps import load_student

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_student = model.endswith(".pt")
    checkpoint = open_checkpoint("builtin-sprint" if is_student else model)
    encoder = load_prompt_encoder(checkpoint, dtype="fp32", device=device)
    if is_student:
        teacher = open_checkpoint("builtin").transformer
        transformer = load_student(Path(model).parent, teacher, file=Path(model).name).to(device)
    else:
        transformer = load_transformer(checkpoint, dtype="fp32", device=device)
    vae = load_vae(checkpoint, dtype="fp32", device=device, halves=("encoder", "decoder"))
    # Of a quantized folder: what `sana generate` runs.
    for part in (encoder.model, transformer, vae):
        accelerate(part, device, "auto")
    return Painter(
        text_encoder=encoder.model,
        tokenizer=build_tokenizer(),
        transformer=transformer,
        vae=vae,
        steps=steps or checkpoint.defaults.steps,
        guidance=guidance or checkpoint.defaults.guidance_scale,
        shift=checkpoint.defaults.flow_shift,
        scheduler=checkpoint.defaults.scheduler,
    )


# -- questions -----------------------------------------------------------------------------------


def questions(*, scale: float = 1.0) -> list[Question]:
    """The fixed set of prompts, about 430 at scale 1, half of every composed group from held-out combinations."""
    rng = random.Random(EVALUATION_SEED)
    scenes: list[tuple[str, Scene]] = []
    for group, mix, count in (
        ("shape", Mix(**_only("single_shape")), 120),
        ("shape relation", Mix(**_only("shape_pair")), 60),
        ("object relation", Mix(**_only("object_pair")), 100),
    ):
        for i in range(round(count * scale)):
            split: Split = "held-out" if i % 2 else "train"
            scenes.append((group, sample_scene(rng, mix=mix, split=split)))
    scenes += [
        ("object", scene)
        for scene in _every_object(rng, max(1, round(len(OBJECTS) * min(1.0, scale))))
    ]
    for group, mix in (
        ("count", Mix(**_only("object_count"))),
        ("mixed relation", Mix(**_only("mixed_pair"))),
    ):
        scenes += [(group, sample_scene(rng, mix=mix)) for _ in range(round(30 * scale))]
    return [
        Question(group=group, scene=scene, seed=1 + i) for i, (group, scene) in enumerate(scenes)
    ]


def _only(kind: str) -> dict[str, float]:
    return {name: float(name == kind) for name in Mix.__dataclass_fields__}


def _every_object(rng: random.Random, count: int) -> Iterable[Scene]:
    """Single objects, each once before any twice, styles alternating."""
    for i, name in enumerate(rng.sample(list(OBJECTS), count)):
        yield Scene(
            things=(Thing(name=name),),
            background=rng.choice(list(BACKGROUND_COLOURS)),
            size=rng.choice(OBJECT_SIZES),
            style=list(STYLES)[i % 2],
        )


# -- scores --------------------------------------------------------------------------------------


def wilson(hits: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion."""
    if trials == 0:
        return 0.0, 1.0
    p = hits / trials
    middle = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = (
        z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def share(verdicts: list[Verdict], test: Callable[[Verdict], bool]) -> dict[str, object]:
    """Hits, trials, share and interval."""
    hits = sum(map(test, verdicts))
    low, high = wilson(hits, len(verdicts))
    return {
        "hits": hits,
        "trials": len(verdicts),
        "share": round(hits / max(1, len(verdicts)), 4),
        "interval": [round(low, 4), round(high, 4)],
    }


# What has to be right for a picture of the group to count as right.
TESTS: dict[str, Callable[[Verdict], bool]] = {
    "shape": lambda v: v.background and v.things and v.count,
    "shape relation": lambda v: v.things and v.places,
    "object": lambda v: v.things,
    "object relation": lambda v: v.things and v.places,
    "count": lambda v: v.things and v.count,
    "mixed relation": lambda v: v.things and v.places,
}


def score(asked: list[Question], verdicts: list[Verdict]) -> dict[str, object]:
    """Per group: the group's own test, its seen and held-out halves, and every single property."""
    result: dict[str, object] = {}
    for group in dict.fromkeys(q.group for q in asked):
        pairs = [(q, v) for q, v in zip(asked, verdicts, strict=True) if q.group == group]
        test = TESTS[group]
        entry: dict[str, object] = {"right": share([v for _, v in pairs], test)}
        for name, wanted in (("seen", False), ("held_out", True)):
            part = [v for q, v in pairs if q.held_out is wanted]
            if part:
                entry[name] = share(part, test)
        for field in ("background", "count", "things", "places", "size", "style"):
            entry[field] = share([v for _, v in pairs], lambda v, field=field: getattr(v, field))
        result[group] = entry
    result["all"] = {"right": share(verdicts, lambda v: v.background and v.things and v.places)}
    return result


# -- runs ----------------------------------------------------------------------------------------


def paint_all(painter: Painter, asked: list[Question]) -> np.ndarray:
    """All pictures, in batches."""
    parts = []
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        parts.append(painter.paint([q.prompt for q in part], [q.seed for q in part]))
    return np.concatenate(parts)


@torch.inference_mode()
def check_the_checker(
    vae: AutoencoderDC, sprites: Sprites, checker: Checker, scenes: list[Scene]
) -> dict[str, object]:
    """Ground truth of the questions through the autoencoder: PSNR, and how often the checker is right."""
    device = next(vae.parameters()).device
    verdicts, qualities, sharpness = [], [], []
    for start in range(0, len(scenes), BATCH):
        part = scenes[start : start + BATCH]
        image = to_unit_range(np.stack([draw(scene, sprites) for scene in part]), device)
        decoded = vae.decode(vae.encode(image))
        qualities += [psnr(d[None], i[None]) for d, i in zip(decoded, image, strict=True)]
        sharpness.append(edge_contrast(decoded) / edge_contrast(image))
        verdicts += [
            judge(checker.read(p), s) for p, s in zip(to_uint8(decoded), part, strict=True)
        ]
    return {
        "right": share(verdicts, lambda v: v.all_but_style),
        "style": share(verdicts, lambda v: v.style),
        "psnr_db": round(float(np.mean(qualities)), 2),
        "psnr_db_worst_5_percent": round(float(np.quantile(qualities, 0.05)), 2),
        "edge_contrast": round(float(np.mean(sharpness)), 3),
    }


def edge_contrast(image: Tensor) -> float:
    """Mean absolute difference between neighbouring pixels; 1 as a ratio means as crisp as the original."""
    image = image.float().clamp(-1, 1)
    across, down = image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]
    return float(across.abs().mean() + down.abs().mean())


def evaluate(
    model: str,
    sprites: Sprites,
    results: Path,
    *,
    scale: float,
    steps: int = 0,
    guidance: float = 0.0,
    teacher: str = "",
) -> dict[str, object]:
    """Score a model; writes evaluation.json and contact sheets into `results` and returns the document.

    `teacher` is a model whose pictures of the same noise those of a distilled one are compared with.
    """
    painter, checker = load_painter(model, steps=steps, guidance=guidance), Checker(sprites)
    asked = questions(scale=scale)
    truth = check_the_checker(painter.vae, sprites, checker, [q.scene for q in asked])
    print(f"ground truth through the autoencoder: {json.dumps(truth)}", flush=True)
    started = time.monotonic()
    images = paint_all(painter, asked)
    seconds = (time.monotonic() - started) / len(asked)
    distances = {}
    if teacher:
        wanted = paint_all(load_painter(teacher), asked)
        each = [psnr_db(image, other) for image, other in zip(images, wanted, strict=True)]
        distances = {"psnr_to_teacher_db": round(float(np.mean(each)), 2)}
    readings = [checker.read(image) for image in images]
    verdicts = [judge(reading, q.scene) for reading, q in zip(readings, asked, strict=True)]
    document = {
        "model": Path(model).name,
        "settings": {
            "steps": painter.steps,
            "guidance": painter.guidance,
            "shift": painter.shift,
            "scheduler": painter.scheduler,
        },
        "prompts": len(asked),
        "seconds_per_picture": round(seconds, 3),
        **distances,
        "checker_on_ground_truth": truth,
        "scores": score(asked, verdicts),
        "wrong": [
            _describe(q, r)
            for q, r, v in zip(asked, readings, verdicts, strict=True)
            if not TESTS[q.group](v)
        ],
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "evaluation.json").write_text(
        json.dumps(document, indent=1) + "\n", encoding="utf-8"
    )
    for group in TESTS:
        chosen = [i for i, q in enumerate(asked) if q.group == group][:32]
        if chosen:
            save_grid(results / f"sheet-{group.replace(' ', '-')}.png", images[chosen], columns=8)
    return document


def _describe(question: Question, reading: Reading) -> dict[str, object]:
    things = [" ".join(filter(None, (f.colour, f.name, f.style))) for f in reading.found]
    return {
        "prompt": question.prompt,
        "seed": question.seed,
        "group": question.group,
        "held_out": question.held_out,
        "seen_as": f"{reading.layout} on {reading.background}: {', '.join(things)}",
    }


def print_scores(document: dict[str, object]) -> None:
    """The table for people."""
    scores = document["scores"]
    for group, entry in scores.items():
        line = f"{group:16s}"
        for part in ("right", "seen", "held_out"):
            if part in entry:
                s = entry[part]
                line += f"  {part} {s['hits']}/{s['trials']} = {100 * s['share']:.1f} % [{100 * s['interval'][0]:.0f}, {100 * s['interval'][1]:.0f}]"
        print(line)
