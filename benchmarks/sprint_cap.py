"""Draw few-step pictures as whole processes with and without a memory cap: seconds and peak of each.

`python -m benchmarks.sprint_cap --work FOLDER` needs the models of `benchmarks.sprint` in FOLDER: Sprint-0.6B in w8a8 with
the tiny decoder, 512 pixels, 2 steps. Each round draws a new prompt and, again, a cached one, with each cap in turn. The
document goes to `benchmarks/results/sprint-512-cap.json`: medians, and what each picture took.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.record import record
from sana_cli.bench.machine import machine

CAPS = ("none", "1.2GiB")
WORDS = ("--size", "512", "--steps", "2", "--seed", "1", "--local", "--quiet", "--json", "--force")


def picture(work: Path, scratch: Path, prompt: str, cap: str) -> dict[str, float]:
    """Draw one in a process of its own; returns seconds by stage and `peak_gib`."""
    command = [
        sys.executable, "-m", "sana_cli", "generate", prompt, *WORDS, "-o", str(scratch / "picture.png"),
        "--model", str(work / "sprint-0.6b-w8a8"), "--decoder", str(work / "tiny"),
        *(() if cap == "none" else ("--max-memory", cap)),
    ]  # fmt: skip
    env = {**os.environ, "SANA_CACHE": str(scratch / "cache"), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    [image] = json.loads(done.stdout)["images"]
    return {**image["seconds"], "peak_gib": round(image["peak_memory_bytes"] / 2**30, 3)}


def main(
    work: Annotated[Path, typer.Option(help="Folder of the models of benchmarks.sprint.")],
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Measure, print the medians and keep the document."""
    taken: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for cap in CAPS:  # kernels are measured and the instruction is encoded once
            picture(work, scratch, "a warm-up", cap)
        for number in range(rounds):
            for cap in CAPS if number % 2 else reversed(CAPS):
                for kind in ("new prompt", "text cached"):
                    found = picture(work, scratch, f"a cat, number {number}, cap {cap}", cap)
                    taken.setdefault(f"{cap}, {kind}", []).append(found)
    medians = {name: _median(pictures) for name, pictures in taken.items()}
    document: dict[str, Any] = {
        "command": "python -m benchmarks.sprint_cap --work FOLDER", "rounds": rounds, "machine": machine(),
        "medians": medians, "pictures": taken,
    }  # fmt: skip
    record("sprint-512-cap", document)
    for name, values in medians.items():
        print(f"{name}: {values}")


def _median(pictures: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(p[key] for p in pictures), 3) for key in pictures[0]}


if __name__ == "__main__":
    typer.run(main)
