"""Measure why Flow-Euler draws more pictures right in two steps than in four: noise levels and guidance varied.

Every row draws the same prompts from the same noise; only the noise levels or the guidance differ.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sana_cli.schedulers import flow_euler_sigmas
from training.checker import Checker
from training.evaluate import load_painter, questions
from training.sprites import Sprites
from training.steps import score_row

MIDDLES = (0.75, 0.3, 0.9, 0.5)  # of two steps; published is 0.009
GUIDANCES = (1.0, 2.0)  # of four steps; also the model's own


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Describe one way to draw: what is varied, the noise levels from 1 to 0, and guidance."""

    varied: str
    sigmas: tuple[float, ...]
    guidance: float


def variants(*, shift: float, guidance: float) -> Iterator[Variant]:
    """Yield every way to draw for a model with this shift and guidance."""

    def published(steps: int) -> tuple[float, ...]:
        return tuple(flow_euler_sigmas(steps, shift))

    yield Variant(varied="steps", sigmas=(1.0, 0.0), guidance=guidance)
    for steps in (2, 3, 4):
        yield Variant(varied="steps", sigmas=published(steps), guidance=guidance)
    for middle in MIDDLES:
        yield Variant(varied="middle of two", sigmas=(1.0, middle, 0.0), guidance=guidance)
    for other in GUIDANCES:
        yield Variant(varied="guidance of four", sigmas=published(4), guidance=other)


def measure_noise_levels(
    model: str, sprites: Sprites, results: Path, *, scale: float
) -> dict[str, object]:
    """Score every variant that flow-euler.json in `results` lacks; writes that file after each of them."""
    checker, painter, asked = Checker(sprites), load_painter(model), questions(scale=scale)
    file = results / "flow-euler.json"
    stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    same = stored.get("prompts") == len(asked) and stored.get("model") == Path(model).name
    rows: list[dict[str, object]] = stored["rows"] if same else []
    document = {
        "model": Path(model).name, "prompts": len(asked), "shift": painter.shift,
        "command": f"python -m training noise-levels --run-folder RUN --model {model} --scale {scale:g}",
        "right": "every picture by the test of its group, see training/evaluate.py",
        "rows": rows,
    }  # fmt: skip
    results.mkdir(parents=True, exist_ok=True)
    for variant in variants(shift=painter.shift, guidance=painter.guidance):
        named = {
            "varied": variant.varied,
            "sigmas": [round(sigma, 4) for sigma in variant.sigmas],
            "guidance": variant.guidance,
        }
        if any(named.items() <= row.items() for row in rows):
            continue
        steps = len(variant.sigmas) - 1
        drawing = replace(
            painter, sigmas=variant.sigmas, guidance=variant.guidance, steps=steps,
            scheduler="flow-euler",
        )  # fmt: skip
        rows.append({**named, **score_row(drawing, checker, asked)})
        print(json.dumps(rows[-1]), flush=True)
        text = json.dumps(document, indent=1) + "\n"
        file.write_text(text, encoding="utf-8")
    return document
