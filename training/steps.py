"""Quality against the number of steps, for Flow-DPM-Solver and Flow-Euler, with the checker's scores as quality.

Every cell draws the same prompts from the same noise, so columns differ by the sampler alone.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from training.checker import Checker, judge
from training.evaluate import STEP_COUNTS, TESTS, Painter, load_painter, paint_all, questions, share
from training.sprites import Sprites

SCHEDULERS = ("flow-dpm", "flow-euler")
COLOURS = {"flow-dpm": (35, 90, 220), "flow-euler": (222, 90, 40)}


def measure_steps(
    model: str,
    sprites: Sprites,
    results: Path,
    *,
    scale: float,
    step_counts: tuple[int, ...] = STEP_COUNTS,
) -> dict[str, object]:
    """Score every scheduler at every step count; writes sampler-steps.json and .png into `results`."""
    checker, painter, asked = Checker(sprites), load_painter(model), questions(scale=scale)
    rows = []
    for scheduler in SCHEDULERS:
        for steps in step_counts:
            rows.append(
                score_row(replace(painter, steps=steps, scheduler=scheduler), checker, asked)
            )
            print(json.dumps(rows[-1]), flush=True)
    document = {
        "model": Path(model).name,
        "prompts": len(asked),
        "guidance": painter.guidance,
        "shift": painter.shift,
        "right": "every picture by the test of its group, see training/evaluate.py",
        "rows": rows,
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "sampler-steps.json").write_text(
        json.dumps(document, indent=1) + "\n", encoding="utf-8"
    )
    plot(rows, results / "sampler-steps.png")
    return document


def score_row(painter: Painter, checker: Checker, asked: list) -> dict[str, object]:
    """Draw and check all questions: hits and interval, how much of the pictures is explained, seconds."""
    started = time.monotonic()
    images = paint_all(painter, asked)
    seconds = (time.monotonic() - started) / len(asked)
    readings = [checker.read(image) for image in images]
    verdicts = [judge(reading, q.scene) for reading, q in zip(readings, asked, strict=True)]
    hits = [TESTS[q.group](v) for q, v in zip(asked, verdicts, strict=True)]
    explained = [found.explained for reading in readings for found in reading.found]
    return {
        "scheduler": painter.scheduler,
        "steps": painter.steps,
        **share(hits, bool),
        "explained": round(sum(explained) / len(explained), 4),
        "seconds_per_picture": round(seconds, 3),
    }


def plot(rows: list[dict[str, object]], path: Path, *, width: int = 720, height: int = 420) -> None:
    """A line a scheduler: share of right pictures over steps (on a doubling scale), with its interval as a bar."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    counts = sorted({row["steps"] for row in rows})
    left, right, top, bottom = 60, width - 20, 30, height - 50

    def x_of(steps: int) -> float:
        return left + (right - left) * counts.index(steps) / max(1, len(counts) - 1)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * value

    for percent in range(0, 101, 20):
        y = y_of(percent / 100)
        draw.line((left, y, right, y), fill=(225, 225, 225))
        draw.text((left - 38, y - 6), f"{percent} %", fill=(60, 60, 60))
    for steps in counts:
        draw.text((x_of(steps) - 6, bottom + 8), str(steps), fill=(60, 60, 60))
    draw.text(((left + right) / 2 - 20, bottom + 26), "steps", fill=(60, 60, 60))
    for i, (scheduler, colour) in enumerate(COLOURS.items()):
        series = [row for row in rows if row["scheduler"] == scheduler]
        points = [(x_of(row["steps"]), y_of(row["share"])) for row in series]
        draw.line(points, fill=colour, width=3)
        for (x, y), row in zip(points, series, strict=True):
            low, high = row["interval"]
            draw.line((x, y_of(low), x, y_of(high)), fill=colour)
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        draw.text((left + 10 + 130 * i, 8), scheduler, fill=colour)
    image.save(path)
