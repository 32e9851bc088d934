"""Measure quantizing and loading a full-size pipeline: seconds, peak memory, bytes on disk.

`python -m benchmarks.full_size --work FOLDER` writes a pipeline of real shapes with random weights
into FOLDER (7 GB, kept for the next time), quantizes it without data as a user would, each in a
process of its own, and loads the parts of the result one by one. The document goes to
`benchmarks/results/full-size.json`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.record import record
from sana_cli.bench.machine import machine

_LOAD = """
import gc, math, sys, torch
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli import loading
from sana_cli.system.resident import resident_bytes
from sana_cli.checkpoints.component_weights import component_weights
component, folder = sys.argv[1:]
checkpoint, cpu = open_checkpoint(folder), torch.device("cpu")
gc.collect()
before = resident_bytes()
load = {"transformer": loading.load_transformer, "vae": loading.load_vae,
        "text_encoder": loading.load_prompt_encoder}[component]
model = load(checkpoint, dtype="fp32", device=cpu)
module = getattr(model, "model", model)
loading.accelerate(module, cpu, "auto")
gc.collect()
after = resident_bytes()
weights = component_weights(checkpoint, component)
table = weights.names.get("embed_tokens.qweight")
print(before, after, math.prod(weights.files.headers[table][1]) if table else 0)
"""


def run(arguments: list[str]) -> dict[str, Any]:
    """A process to its end: seconds and peak resident bytes. Raises CalledProcessError if it fails."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    seconds = time.perf_counter() - started
    return {
        "seconds": round(seconds, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 3),
        "output": output,
    }


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(
    work: Annotated[Path, typer.Option(help="Where the model folders go; 12 GB free.")],
    variant: Annotated[str, typer.Option(help="A known name.")] = "sana-0.6b",
    recipes: str = "w8a8,int4",
) -> None:
    """Quantize and load a full-size pipeline with random weights."""
    source = work / variant
    if not source.is_dir():
        run(["-m", "benchmarks.random_model", variant, str(source)])
    document: dict[str, Any] = {
        "benchmark": "full_size",
        "date": date.today().isoformat(),
        "machine": machine(),
        "variant": f"{variant}, random weights",
        "bytes_before": folder_bytes(source),
        "recipes": {},
    }
    for recipe in recipes.split(","):
        target = work / f"{variant}-{recipe}"
        shutil.rmtree(target, ignore_errors=True)
        words = ["quantize", str(source), str(target), "--recipe", recipe, "--samples", "0"]
        row = run(["-m", "sana_cli", *words, "--json", "--quiet"])
        report = json.loads(row.pop("output"))
        row["bytes_after"] = folder_bytes(target)
        row["components"] = {
            name: {
                key: part[key] for key in ("scheme", "bytes_before", "bytes_after", "sqnr_db_worst")
            }
            for name, part in report["components"].items()
        }
        row["load"] = {name: _load(target, name) for name in row["components"]}
        document["recipes"][recipe] = row
    record("full-size", document)
    print(json.dumps(document, indent=1))


def _load(folder: Path, component: str) -> dict[str, Any]:
    """Return the resident bytes that loading a component adds, and those of its file (without a word table)."""
    before, after, table = map(int, run(["-c", _LOAD, component, str(folder)])["output"].split())
    weights = (folder / component / "model.safetensors").stat().st_size - table
    return {
        "resident_bytes": after - before,
        "weight_bytes": weights,
        "ratio": round((after - before) / weights, 3),
    }


if __name__ == "__main__":
    typer.run(main)
