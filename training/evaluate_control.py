"""Measure how well a ControlNet keeps what a drawing outlines: overlap of masks on held-out drawings.

The mask of a picture is what differs from its background, with holes filled, and is compared with the drawing's filled
outline by intersection over union (IoU). The caption states neither size nor place, and most drawings are moved to where
no caption could put them. The document also has the picture itself through the autoencoder (the ceiling) and the same
model without a control picture (the floor). A model is a checkpoint folder, drawn with its own sampler.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from sana_cli.models.controlnet import SanaControlNet
from training.checker import BORDER_PX
from training.control import encode_drawings
from training.drawings import Drawing, filled, sample_drawing
from training.evaluate import BATCH, Painter, load_painter, wilson
from training.runs import pick_device, save_grid, to_uint8
from training.sampling import sample_latents
from training.scenes import Mix
from training.sprites import Sprites

# H W pixels

SEED = 20_261_129
COUNT = 60
KEPT = 0.5  # the smallest IoU of a drawing that was kept, as usual for detections; other levels are listed, too
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
CONTRAST = 30  # of 255 in any channel: what differs more is no background
SPECK = 3  # pixels: what is narrower is noise
# Scenes that no training has seen are combinations: a shape in a colour, two objects.
_HELD_OUT = Mix(
    single_object=0, single_shape=0.4, object_pair=0.4, shape_pair=0.1, mixed_pair=0.1,
    object_count=0, shape_count=0,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Score:
    """IoU of one drawing: with control, without, and of its picture through the autoencoder."""

    caption: str
    moved: tuple[int, int]
    kind: str
    control: float
    floor: float
    ceiling: float


def held_out_drawings(sprites: Sprites, *, count: int = COUNT, seed: int = SEED) -> list[Drawing]:
    """Drawings of held-out scenes, always the same ones."""
    rng = random.Random(seed)
    return [
        sample_drawing(rng, sprites, mix=_HELD_OUT, split="held-out") for _ in range(count)
    ]  # fmt: skip


def shown(image: np.ndarray) -> np.ndarray:
    """Find what a picture, uint8 (H, W, 3), shows before its background, with holes filled, bool (H, W)."""
    inner = np.zeros(image.shape[:2], bool)
    inner[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    background = np.median(image[~inner], axis=0)
    differs = np.abs(image.astype(np.int16) - background.astype(np.int16)).max(axis=2) > CONTRAST
    kernel = np.ones((SPECK, SPECK), np.uint8)
    return filled(cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two masks, bool (H, W)."""
    return float((first & second).sum() / max(1, (first | second).sum()))


def evaluate_control(
    model: str, sprites: Sprites, results: Path, *, count: int = COUNT, steps: int = 0
) -> dict[str, object]:
    """Draw and score held-out drawings; writes control-builtin.json and a sheet into `results`."""
    painter = load_painter(model, steps=steps)
    drawings = held_out_drawings(sprites, count=count)
    rows = drawn(painter, load_net(model), drawings)
    scores = [_score(drawing, row) for drawing, row in zip(drawings, rows, strict=True)]
    document: dict[str, object] = {
        "command": f"python -m training evaluate-control --steps {painter.steps}",
        "measure": f"IoU of what differs from the background with the filled outline; kept from {KEPT}",
        "steps": painter.steps,
        "precision": "bf16 (autocast)",
        "drawings": len(scores),
        "kept": _kept([s.control for s in scores]),
        "floor_without_control": _kept([s.floor for s in scores]),
        "ceiling_of_the_autoencoder": _kept([s.ceiling for s in scores]),
        "lost": [
            {"caption": s.caption, "moved": s.moved, "lines": s.kind, "iou": round(s.control, 3)}
            for s in scores
            if s.control < KEPT
        ],
    }
    results.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1) + "\n"
    (results / "control-builtin.json").write_text(text, encoding="utf-8")
    sheet = [image for d, row in zip(drawings, rows, strict=True) for image in (d.lines, *row[:2])]
    save_grid(results / "control-builtin.png", np.stack(sheet[: 3 * 24]), columns=12)
    return document


def load_net(model: str) -> SanaControlNet:
    """The ControlNet of a checkpoint, fp32."""
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.loading.load import load_controlnet

    return load_controlnet(open_checkpoint(model), dtype="fp32", device=pick_device())


@torch.inference_mode()
def drawn(painter: Painter, net: SanaControlNet, drawings: list[Drawing]) -> list[list[np.ndarray]]:
    """Three pictures a drawing, uint8 (H, W, 3): with control, without, and its own through the autoencoder."""
    scaling_factor = painter.vae.config.scaling_factor
    rows: list[list[np.ndarray]] = []
    for start in range(0, len(drawings), BATCH):
        part = drawings[start : start + BATCH]
        pictures, lines = encode_drawings(painter.vae, part).unbind(1)
        with torch.autocast(pick_device().type, torch.bfloat16):
            latents = [
                sample_latents(
                    painter.transformer, painter.text_encoder, painter.tokenizer,
                    [d.caption() for d in part], seeds=[1 + start + i for i in range(len(part))],
                    steps=painter.steps, guidance=painter.guidance, shift=painter.shift,
                    scheduler=painter.scheduler, net=branch, drawings=lines,
                )
                for branch in (net, None)
            ]  # fmt: skip
            decoded = [
                to_uint8(painter.vae.decode(x / scaling_factor)) for x in (*latents, pictures)
            ]
        rows += [list(images) for images in zip(*decoded, strict=True)]
    return rows


def _score(drawing: Drawing, images: list[np.ndarray]) -> Score:
    wanted = drawing.outline
    control, floor, ceiling = (iou(shown(image), wanted) for image in images)
    return Score(
        caption=drawing.caption(), moved=drawing.moved, kind=drawing.kind, control=control,
        floor=floor, ceiling=ceiling,
    )  # fmt: skip


def _kept(ious: list[float]) -> dict[str, object]:
    """The share of drawings that were kept, with its interval, the mean, and the shares at other levels."""
    hits = sum(value >= KEPT for value in ious)
    return {
        "share": round(hits / len(ious), 4),
        "interval": [round(end, 4) for end in wilson(hits, len(ious))],
        "mean_iou": round(float(np.mean(ious)), 4),
        "share_by_level": {
            str(level): round(sum(v >= level for v in ious) / len(ious), 4) for level in LEVELS
        },
    }
