"""Time a grid of 4 x 4 pictures against the sixteen commands that draw the same: `python -m benchmarks.sweep [--model builtin]`.

Rounds take turns. Writes sweep.json: seconds of both, and how many times as fast the grid is.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from typing import Annotated, Any

import typer

from benchmarks.record import record
from sana_cli.bench.machine import machine

STEPS, GUIDANCES = (2, 3, 4, 5), (2, 3, 4, 5)
WANTED = 1.5  # times as fast


def drawn(model: str, steps: str, guidance: str, *more: str) -> float:
    """Draw in a process of its own; seconds. Raises CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory(prefix="sana-sweep-") as folder:
        words = ["generate", "a red fox", "-m", model, "--steps", steps, "--guidance", guidance, "--local"]  # fmt: skip
        options = ["--seed", "1", "--device", "cpu", "--quiet", "-o", f"{folder}/x.png", *more]
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "sana_cli", *words, *options],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return time.perf_counter() - started


def main(model: str = "builtin", rounds: Annotated[int, typer.Option(min=1)] = 3) -> None:
    """Compare a grid with single commands."""
    drawn(model, "1", "2")  # kernels are measured once a machine
    listed = [",".join(map(str, values)) for values in (STEPS, GUIDANCES)]
    grids, singles = [], []
    for _ in range(rounds):
        grids.append(drawn(model, *listed, "--grid"))
        singles.append(sum(drawn(model, str(s), str(g)) for s in STEPS for g in GUIDANCES))
    ratios = [single / grid for single, grid in zip(singles, grids, strict=True)]
    document: dict[str, Any] = {
        "benchmark": "sweep", "date": date.today().isoformat(), "machine": machine(), "model": model,
        "grid_seconds": grids, "single_seconds": singles, "times_as_fast": statistics.median(ratios),
        "is_reached": statistics.median(ratios) >= WANTED,
    }  # fmt: skip
    print(json.dumps(document), record("sweep", document))


if __name__ == "__main__":
    typer.run(main)
