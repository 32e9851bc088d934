"""Measure the cost in quality of each way of quantizing, on the built-in model.

`python -m benchmarks.quality` quantizes it by every method, draws the same held-out prompts and
seeds with each, and compares pictures with those of the unquantized model (PSNR) and with their
prompts (the checker of `training/`). It prints a table and writes it to `benchmarks/results/` as
JSON and Markdown. Layers run on the kernels that `sana generate` would choose on the machine.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.record import RESULTS, record
from calibration.calibrator import Calibrator, Options
from calibration.collect import StepInput
from calibration.linears import NEAREST, Methods
from calibration.prompts import prompts_for
from quant.config import QuantConfig
from quant.convert import resolve
from quant.layers import QuantLinear
from quant.primitives import quantize_per_group, sqnr_db
from sana_cli import __version__
from sana_cli.bench.machine import machine
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.components import NETWORKS
from sana_cli.config.recipes import RECIPES, KeepRule, component_recipe, keep_rule
from sana_cli.loading.load import load_transformer
from sana_cli.models.sana_transformer import SanaTransformer2D
from sana_cli.quantize_checkpoint import (
    Calibration,
    ComponentPlan,
    ComponentReport,
    quantize_folder,
)
from sana_cli.terminal.progress_bars import ConsoleReporter
from training.checker import Checker, judge
from training.evaluate import TESTS, Question, load_painter, paint_all, questions
from training.sprites import load_sprites

BARS = {"w8a8": (30.0, 1.0), "int4": (22.0, 3.0)}  # least PSNR in dB, most points of accuracy lost
KEPT = 6  # of 64 layers, for the rows that keep some
NONE = dict.fromkeys(NETWORKS, "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A row of the table: the parts to quantize, and the method."""

    name: str
    schemes: dict[str, str]
    methods: Methods | None = None  # None: without data
    keep: KeepRule | None = None
    largest: bool = False  # 4-bit scales from the largest magnitude, which the product never uses
    bar: str = ""


def rows() -> Iterator[Method]:
    """Methods on the transformer alone, then the other parts alone, then whole recipes."""
    w8, w4 = NONE | {"transformer": "w8a8"}, NONE | {"transformer": "w4a16-g64"}
    smooth, both = Methods(gptq_bits=()), Methods()
    yield Method(name="w8a8 to nearest", schemes=w8, methods=NEAREST)
    yield Method(name="w8a8 smoothed", schemes=w8, methods=smooth)
    yield Method(name="w8a8 smoothed, GPTQ", schemes=w8, methods=both)
    kept = keep_rule("w8a8", "w8a8", count=KEPT, budget_db=None)
    yield Method(name=f"w8a8 ..., {KEPT} layers kept", schemes=w8, methods=both, keep=kept)
    yield Method(name="int4 to nearest, largest magnitude", schemes=w4, largest=True)
    yield Method(name="int4 to nearest, range search", schemes=w4, methods=NEAREST)
    yield Method(name="int4 smoothed", schemes=w4, methods=smooth)
    yield Method(name="int4 GPTQ", schemes=w4, methods=Methods(smooth=False))
    yield Method(name="int4 smoothed, GPTQ", schemes=w4, methods=both)
    kept = keep_rule("int4", w4["transformer"], count=KEPT, budget_db=None)
    yield Method(name=f"int4 ..., {KEPT} layers kept", schemes=w4, methods=both, keep=kept)
    half = keep_rule("mixed", w4["transformer"], count=None, budget_db=None)
    yield Method(name="int4 and w8a8 mixed", schemes=w4, methods=both, keep=half)
    for part, scheme in (
        ("text_encoder", "w8a16"), ("text_encoder", "w4a16-g64"), ("vae", "w8a16"), ("vae", "w8a8"),
    ):  # fmt: skip
        yield Method(name=f"{part} {scheme}", schemes=NONE | {part: scheme}, methods=both)
    for recipe, schemes in RECIPES.items():
        keep = keep_rule(recipe, schemes["transformer"], count=None, budget_db=None)
        yield Method(name=f"recipe {recipe}", schemes=schemes, methods=both, keep=keep, bar=recipe)
        if recipe in BARS:
            yield Method(name=f"recipe {recipe}, no data", schemes=schemes)


class SharedPictures(Calibrator):
    """Calibration pictures are the float model's, so one set serves every row."""

    drawn: ClassVar[tuple[list[StepInput], list[Tensor]] | None] = None

    def record(self, transformer: SanaTransformer2D) -> list[StepInput]:
        if SharedPictures.drawn is None:
            SharedPictures.drawn = super().record(transformer), self._latents
        inputs, self._latents = SharedPictures.drawn
        return inputs


@dataclass(slots=True)
class LargestMagnitude:
    """A `Calibration` that needs no data: plain scales instead of searched ones."""

    checkpoint: Checkpoint

    def key(self, component: str) -> list[Any]:
        return ["largest"]

    def plan(self, component: str) -> ComponentPlan | None:
        if component != "transformer":
            return None
        model = load_transformer(self.checkpoint, dtype="fp32", device=torch.device("cpu"))
        layers = resolve(model, component_recipe(component, "w4a16-g64"))
        finished, sqnr = {}, {}
        for report in layers:
            if report.config is not None:
                layer = model.get_submodule(report.path)
                finished[report.path] = _plainly(layer, report.config)
                dense = finished[report.path].dequantize(torch.float32)
                sqnr[report.path] = sqnr_db(layer.weight.flatten(1), dense)  # type: ignore[operator]
        return ComponentPlan(layers=layers, finished=finished, sqnr=sqnr)

    def finish(self, folder: Path) -> None:
        """Nothing is added."""


def _plainly(layer: Any, config: QuantConfig) -> QuantLinear:
    q_NK, scale = quantize_per_group(layer.weight.flatten(1), config.group_size)
    return QuantLinear.from_quantized(q_NK, scale, layer.bias, config)


@dataclass(slots=True)
class Judge:
    """The questions, the unquantized model's pictures, and how both are scored."""

    asked: list[Question]
    checker: Checker
    reference: np.ndarray[Any, Any] = field(init=False)

    def score(self, model: str) -> dict[str, Any]:
        return self.score_pictures(paint_all(load_painter(model), self.asked))

    def score_pictures(self, pictures: np.ndarray[Any, Any]) -> dict[str, Any]:
        """Score pictures, uint8 (P, H, W, 3), one a question; the first call's become the reference."""
        if not hasattr(self, "reference"):
            self.reference = pictures
        error = (pictures.astype(np.float32) - self.reference.astype(np.float32)) ** 2
        psnr = 10 * np.log10(255**2 / np.maximum(error.mean(axis=(1, 2, 3)), 1e-5))
        right = [
            TESTS[q.group](judge(self.checker.read(picture), q.scene))
            for q, picture in zip(self.asked, pictures, strict=True)
        ]
        return {
            "psnr_db": round(float(psnr.mean()), 2),
            "psnr_db_worst_5_percent": round(float(np.quantile(psnr, 0.05)), 2),
            "right": sum(right),
            "accuracy": round(100 * sum(right) / len(right), 2),
        }


def held_out(count: int) -> list[Question]:
    """Questions about combinations that training never drew, spread over the groups."""
    scale = 1.5
    while len(found := [q for q in questions(scale=scale) if q.held_out]) < count:
        scale *= 1.5
    return [found[i * len(found) // count] for i in range(count)]


def measure(
    method: Method, checkpoint: Checkpoint, judge_: Judge, *, samples: int
) -> dict[str, Any]:
    """Quantize into a folder that is thrown away, and score what it draws."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, ConsoleReporter(quiet=True) as reporter:
        target = Path(temporary) / "model"
        calibration: Calibration | None = LargestMagnitude(checkpoint) if method.largest else None
        if method.methods is not None:
            options = Options(
                prompts=tuple(prompts_for(checkpoint.own.vocabulary)),
                samples=samples,
                keep=method.keep,
                methods=method.methods,
                compare=False,
            )
            calibration = SharedPictures(
                checkpoint, method.schemes, options, device=torch.device("cpu"), reporter=reporter
            )
        reports = quantize_folder(
            checkpoint, target, method.schemes, recipe=method.name, calibration=calibration
        )
        seconds = time.monotonic() - started
        scores = judge_.score(str(target))
    return {"method": method.name, **scores, **_sizes(reports), "seconds": round(seconds, 1)}


def _sizes(reports: list[ComponentReport]) -> dict[str, Any]:
    values = [value for report in reports for value in report.sqnr.values()]
    return {
        "bytes": sum(report.bytes_after for report in reports),
        "sqnr_db_worst": round(min(values), 2),
        "sqnr_db_median": round(median(values), 2),
    }


def verdict(row: dict[str, Any], accuracy: float, bar: str) -> str:
    """Say whether a row meets its bar, if it has one."""
    if bar not in BARS:
        return ""
    psnr, points = BARS[bar]
    met = row["psnr_db"] >= psnr and accuracy - row["accuracy"] <= points
    return f"{'met' if met else 'MISSED'} ({psnr:g} dB, {points:g} points)"


def table(document: dict[str, Any]) -> str:
    """The rows in Markdown."""
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("method", lambda row: row["method"]),
        ("PSNR, dB", lambda row: f"{row['psnr_db']:.1f}"),
        ("worst 5 %", lambda row: f"{row['psnr_db_worst_5_percent']:.1f}"),
        ("right", lambda row: f"{row['accuracy']:.1f} %"),
        ("points", lambda row: f"{row['points']:+.1f}"),
        ("MB", lambda row: f"{row['bytes'] / 1e6:.1f}"),
        ("SQNR worst, median", lambda row: f"{row['sqnr_db_worst']:.1f}, {row['sqnr_db_median']:.1f}"),
        ("seconds", lambda row: f"{row['seconds']:.0f}"),
        ("bar", lambda row: row["bar"]),
    ]  # fmt: skip
    heads = [name for name, _ in columns]
    body = [[write(row) for _, write in columns] for row in document["rows"]]
    lines = [" | ".join(cells) for cells in (heads, ["---"] * len(heads), *body)]
    intro = (
        f"Built-in model, {document['prompts']} held-out prompts, {document['samples']} calibration "
        f"pictures, {document['date']}. Unquantized: {document['accuracy']:.1f} % right, "
        f"{document['bytes'] / 1e6:.1f} MB. PSNR is that of the same seeds against its pictures; "
        "SQNR is of layers' outputs where real inputs were at hand, of weights elsewhere; seconds are those of "
        "quantizing, the calibration pictures counted in the first row alone."
    )
    return "\n".join([intro, "", *(f"| {line} |" for line in lines)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--prompts", type=int, default=200, help="held-out pictures a row")
    parser.add_argument("--samples", type=int, default=32, help="calibration pictures")
    parser.add_argument(
        "--only", default="", help="rows whose name matches this regular expression"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    checkpoint = open_checkpoint(options.model)
    judge_ = Judge(held_out(options.prompts), Checker(load_sprites()))
    unquantized = judge_.score(options.model)
    found = []
    for method in rows():
        if not re.search(options.only, method.name):
            continue
        row = measure(method, checkpoint, judge_, samples=options.samples)
        row["points"] = round(row["accuracy"] - unquantized["accuracy"], 2)
        row["bar"] = verdict(row, unquantized["accuracy"], method.bar)
        found.append(row)
        print(json.dumps(row), flush=True)
    document = {
        "benchmark": "quality",
        "date": date.today().isoformat(),
        "version": __version__,
        "machine": machine(),
        "model": options.model,
        "prompts": len(judge_.asked),
        "samples": options.samples,
        "accuracy": unquantized["accuracy"],
        "bytes": sum(path.stat().st_size for path in checkpoint.folder.rglob("*.safetensors")),
        "rows": found,
    }
    path = record(f"quality-{document['date']}", document, folder=options.results)
    path.with_suffix(".md").write_text(table(document))
    print(table(document))
    print(json.dumps(document))


if __name__ == "__main__":
    main()
