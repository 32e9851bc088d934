"""Predicted and measured peak memory over sizes, plans, schemes and counts; every run in a process of its own.

`python -m benchmarks.memory --work FOLDER` draws with the built-in model and with a medium-sized random one, in floats
and quantized (kept in FOLDER). `--full FOLDER` adds a full-size model and its quantized folder (FOLDER-w8a8), as
`benchmarks/full_size.py` writes them; minutes a run. Rows with another decoder take random ones of published shapes.
`--diffusers` adds the peak of the reference pipeline. Peaks are resident memory by stage: the kernel's high-water mark,
reset where a stage begins. Rows that are there already in `benchmarks/results/memory.json` are kept, unless `--fresh`.
"""

import json
import os
import re
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from sana_cli.bench.machine import machine
from sana_cli.bench.random_model import write_decoder, write_model

RESULTS = Path(__file__).parent / "results/memory.json"
_STAGE_OF = {  # what has no stage of its own here counts to the one before
    "load encoder": "encode", "encode": "encode", "load text encoder": "text", "text": "text", "load transformer": "denoise", "denoise": "denoise",
    "load decoder": "decode", "decode": "decode", "save": "decode",
}  # fmt: skip
# Runs `sana` and prints the high-water mark of every stage in a last line on stderr.
_SANA = """
import json, sys
from contextlib import contextmanager
from pathlib import Path
from sana_cli.system.allocator import set_up_allocator
from sana_cli.cli import main
from sana_cli.terminal.progress_bars import ConsoleReporter
from sana_cli.system.cpu import limit_spinning
from sana_cli.system.resident import peak_resident_bytes
set_up_allocator()
limit_spinning()
stage_of, peaks, now = json.loads(sys.argv[1]), {}, ["start"]
def mark():
    peaks[now[0]] = max(peaks.get(now[0], 0), peak_resident_bytes())
    Path("/proc/self/clear_refs").write_text("5")
inner = ConsoleReporter.stage
@contextmanager
def stage(self, title, total=None):
    mark()
    now[0] = stage_of.get(title, now[0])
    if now[0] == "encode" and "decode" in peaks:  # the picture of a first drawing
        for each in ("denoise", "decode"):
            peaks[f"first {each}"] = max(peaks.pop(each), peaks.get(f"first {each}", 0))
    with inner(self, title, total) as advance:
        yield advance
ConsoleReporter.stage = stage
code = main(sys.argv[2:])
mark()
print(json.dumps(peaks), file=sys.stderr)
sys.exit(code)
"""
_DIFFUSERS = """
import sys, torch
from diffusers import SanaPipeline
folder, size = sys.argv[1], int(sys.argv[2])
pipeline = SanaPipeline.from_pretrained(folder, torch_dtype=torch.float32)
pipeline("a red fox", height=size, width=size, num_inference_steps=1, use_resolution_binning=False,
         generator=torch.Generator().manual_seed(1))
from sana_cli.system.resident import peak_resident_bytes
print(peak_resident_bytes())
"""
_TWICE = "--steps 2 --upscale 2 --upscale-strength 0.5"
# In the folder of `--work`.
_LITE, _TINY = "--decoder FOLDER/lite", "--decoder FOLDER/tiny"
# model, side, then options. Sizes 256 to 4096; every plan; floats, w8a8 and int4; one picture and several.
RUNS = [
    ("builtin", 256, ""),
    ("builtin", 256, "--count 3"),
    ("builtin", 256, "--plan streamed"),
    ("builtin", 512, ""),
    ("builtin", 1024, ""),
    ("builtin", 1024, "--tile 256"),
    ("builtin", 2048, "--tile 512"),
    ("medium", 256, ""),
    ("medium", 512, ""),
    ("medium", 512, "--count 2"),
    ("medium", 512, "--plan branches"),
    ("medium", 512, "--plan streamed"),
    ("medium", 1024, ""),
    ("medium", 1024, "--plan branches --tile 512"),
    ("medium", 1024, "--plan streamed --tile 256"),
    ("medium", 1024, "--max-memory 1.1GiB"),
    ("medium", 1024, "--count 2"),
    ("medium", 1024, "--count 2 --plan stages"),
    ("medium", 1536, ""),
    ("medium", 2048, "--tile 512"),
    ("medium", 2048, "--plan streamed --tile 256"),
    ("medium", 1024, "--guidance 1"),
    ("medium-w8a8", 512, ""),
    ("medium-w8a8", 1024, ""),
    ("medium-w8a8", 1024, "--plan streamed --tile 512"),
    ("medium-int4", 512, ""),
    ("medium-int4", 1024, "--plan branches"),
    ("medium-int4", 1024, "--plan streamed --tile 256"),
    ("medium-int4", 1024, "--count 2"),
    ("builtin", 4096, "--tile 512"),
    ("builtin", 512, _TWICE),
    ("builtin", 1024, f"{_TWICE} --tile 256"),
    ("builtin", 1024, f"{_TWICE} --max-memory 1.5GiB"),
    ("medium", 512, _TWICE),
    ("medium", 512, f"{_TWICE} --count 2"),
    ("medium", 512, f"{_TWICE} --plan streamed"),
    ("medium", 1024, f"{_TWICE} --max-memory 700MiB"),
    ("medium", 1024, f"{_TWICE} --max-memory 1.5GiB"),
    ("medium", 1024, f"{_TWICE} --max-memory 2GiB"),
    ("medium", 1024, f"{_TWICE} --max-memory 4GiB"),
    ("medium-w8a8", 1024, f"{_TWICE} --max-memory 1.5GiB"),
    ("medium-int4", 1024, f"{_TWICE} --max-memory 1.5GiB"),
    ("builtin", 512, "--decoder tiny"),
    ("builtin", 1024, "--decoder tiny --tile 256"),
    ("medium", 512, _LITE),
    ("medium", 1024, _LITE),
    ("medium", 1024, f"{_LITE} --tile 256"),
    ("medium", 1024, f"{_LITE} --plan streamed"),
    ("medium", 1024, f"{_LITE} --count 2"),
    ("medium", 512, _TINY),
    ("medium", 1024, _TINY),
    ("medium", 2048, f"{_TINY} --tile 512"),
    ("medium", 1024, f"{_TINY} --plan streamed"),
    ("medium", 1024, f"{_TINY} --count 2"),
    ("medium-w8a8", 1024, _TINY),
]
FULL_RUNS = [
    ("full-w8a8", 1024, ""),
    ("full-w8a8", 1024, "--max-memory 2GiB"),
    ("full-w8a8", 1024, "--max-memory 1GiB"),
    ("full-w8a8", 1024, "--max-memory 700MiB"),
    ("full-w8a8", 512, "--plan stages"),
    ("full", 1024, "--max-memory 4GiB"),
    ("full-w8a8", 2048, "--tile 512"),
    ("full-w8a8", 4096, "--max-memory 8GiB"),
    ("full-w8a8", 1024, f"{_TWICE} --max-memory 1.5GiB"),
    ("full-w8a8", 1024, f"{_TWICE} --max-memory 2GiB"),
    ("full-w8a8", 1024, f"{_TWICE} --max-memory 4GiB"),
    ("full", 1024, f"{_TWICE} --max-memory 4GiB"),
    ("full-w8a8", 2048, f"{_TWICE} --max-memory 4GiB"),
]


def process(arguments: list[str]) -> tuple[str, str]:
    """Run to its end; stdout and stderr. RuntimeError with the last lines if it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments[3:]} ended with {done.returncode}: {done.stderr[-400:]}")
    return done.stdout, done.stderr


def words_of(folder: str, side: int, options: str, work: Path) -> list[str]:
    steps = [] if "--steps" in options else ["--steps", "1"]
    return [
        "generate", "a red fox under a tree", "-m", folder, "--size", f"{side}x{side}", *steps,
        "--seed", "1", "--device", "cpu", "--local", "--no-prompt-cache", "--json", "--force", "-o",
        str(work / "picture.png"), *options.replace("FOLDER", str(work)).split(),
    ]  # fmt: skip


def measure(folder: str, name: str, side: int, options: str, work: Path) -> dict[str, Any]:
    """Measure a row: what it took, and what was predicted."""
    words = words_of(folder, side, options, work)
    started = time.perf_counter()
    out, err = process(["-c", _SANA, json.dumps(_STAGE_OF), *words])
    seconds = time.perf_counter() - started
    measured = json.loads(err.strip().splitlines()[-1])
    image = json.loads(out)["images"][-1]
    row = {
        "model": name,
        "size": side,
        "options": options,
        "plan": image["plan"],
        "precision": json.loads(out)["precision"],
        "measured_mib": round(max(measured.values()) / 2**20),
        "measured_stages_mib": {stage: round(value / 2**20) for stage, value in measured.items()},
        "seconds": round(seconds, 1),
        "seconds_by_stage": image["seconds"],
    }
    return row | prediction(words, row)


def prediction(words: list[str], row: dict[str, Any]) -> dict[str, Any]:
    """Return the prediction of `--dry-run` for a measured row."""
    foretold = json.loads(process(["-m", "sana_cli", *words, "--dry-run"])[0])
    predicted = foretold["peak_bytes"] / 2**20
    return {
        "predicted_mib": round(predicted),
        "predicted_to_measured": round(predicted / row["measured_mib"], 3),
        "predicted_stages_mib": {s["stage"]: round(s["total"] / 2**20) for s in foretold["stages"]},
    }


def reference(folder: str, name: str, side: int) -> dict[str, Any]:
    """The fp32 pipeline of diffusers on the same files, one step."""
    out, _ = process(["-c", _DIFFUSERS, folder, str(side)])
    measured = round(int(out.split()[-1]) / 2**20)
    return {"model": name, "size": side, "options": "diffusers fp32", "measured_mib": measured}


def models(work: Path, full: Path | None) -> dict[str, str]:
    """Model folders by the names that rows have; random ones and decoders are made once."""
    for decoder in ("lite", "tiny"):
        if not (work / decoder).is_dir():
            write_decoder(decoder, work / decoder)
    medium = work / "medium"
    if not medium.is_dir():
        write_model("sana-0.6b", medium, medium=True)
    found = {"builtin": "builtin", "medium": str(medium)}
    for recipe in ("w8a8", "int4"):
        target = work / f"medium-{recipe}"
        if not target.is_dir():
            words = ["quantize", str(medium), str(target), "--recipe", recipe, "--samples", "0"]
            process(["-m", "sana_cli", *words, "--quiet"])
        found[f"medium-{recipe}"] = str(target)
    if full is not None:
        found |= {"full": str(full), "full-w8a8": f"{full}-w8a8"}
    return found


def main(
    work: Annotated[Path, typer.Option(help="Where random models go; 3 GB.")],
    full: Annotated[Path | None, typer.Option(help="A full-size model folder.")] = None,
    only: Annotated[str, typer.Option(help="Rows whose name matches this expression.")] = "",
    diffusers: Annotated[bool, typer.Option(help="The reference pipeline, too.")] = False,
    predict_again: Annotated[
        bool, typer.Option(help="Measure nothing; compare the rows there are with new predictions.")
    ] = False,
    fresh: Annotated[bool, typer.Option(help="Measure all rows again.")] = False,
) -> None:
    """Compare predicted with measured peak memory."""
    work.mkdir(parents=True, exist_ok=True)
    folders = models(work, full)
    jobs = [*RUNS, *(FULL_RUNS if full else [])]
    if diffusers:
        jobs += [("medium", 1024, "diffusers fp32")]
        jobs += [("full", 1024, "diffusers fp32")] if full else []
    jobs = [job for job in jobs if re.search(only, " ".join(map(str, job)))]
    before = [] if fresh or not RESULTS.is_file() else json.loads(RESULTS.read_text())["rows"]
    rows = {(row["model"], row["size"], row["options"]): row for row in before}
    warm: set[str] = set()
    for job in jobs:
        name, side, options = job
        if job not in rows and predict_again:
            continue
        if job in rows and not predict_again:
            continue
        if predict_again and "predicted_mib" in rows[job]:
            rows[job] |= prediction(words_of(folders[name], side, options, work), rows[job])
        elif predict_again:
            continue
        elif options.startswith("diffusers"):
            rows[job] = reference(folders[name], name, side)
        else:
            if name not in warm:  # kernels are measured once, which takes memory of its own
                process(["-m", "sana_cli", *words_of(folders[name], 256, "", work)])
                warm.add(name)
            rows[job] = measure(folders[name], name, side, options, work)
        print(rows[job], flush=True)
        ratios = [r["predicted_to_measured"] for r in rows.values() if "predicted_mib" in r]
        document = {
            "benchmark": "memory",
            "date": date.today().isoformat(),
            "machine": machine(),
            "command": "python -m benchmarks.memory --work FOLDER --full FOLDER --diffusers",
            "load_average": os.getloadavg()[0],
            "predicted_to_measured": {"least": min(ratios), "most": max(ratios)} if ratios else {},
            "rows": list(rows.values()),
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
