"""Time how long `sana` takes before it does anything, and to a whole picture: whole processes.

`python -m benchmarks.startup [LABEL]` prints tables and writes one JSON document to `benchmarks/results/`. Commands are
interleaved, so that a busy moment touches all of them; processor time is comparable even on a busy machine.
`--before TREE` draws with another checkout in the same rounds. `--w8a8 FOLDER` loads a quantized folder, too; a full-size
one takes an hour to make: `python -m benchmarks.random_model sana-0.6b MODEL`, `sana quantize MODEL FOLDER --samples 0`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from benchmarks.process_times import process_ms
from benchmarks.record import record
from sana_cli import __version__
from sana_cli.bench.machine import machine, state
from sana_cli.images.png import save_png

GOALS = {  # milliseconds of the wall, on two quiet cores
    "sana --help": 150,
    "first step begins": 1200,
    "built-in picture": 2000,
    "built-in picture, tiny decoder": 1300,
    "load of a full-size w8a8 folder": 2000,
}
PROMPT, NAME = "a red fox", "sana-startup.png"
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "sana --version": ["-m", "sana_cli", "--version"],
    "sana --help": ["-m", "sana_cli", "--help"],
    "sana generate --help": ["-m", "sana_cli", "generate", "--help"],
    "sana models": ["-m", "sana_cli", "models"],
    "sana default": ["-m", "sana_cli", "default"],
    "sana config show": ["-m", "sana_cli", "config", "show"],
    "sana info sana-0.6b": ["-m", "sana_cli", "info", "sana-0.6b"],
    "sana info builtin": ["-m", "sana_cli", "info", "builtin"],
    "sana info PICTURE": ["-m", "sana_cli", "info", NAME],
}
SETTINGS = {
    "prompt": PROMPT, "seed": 7, "steps": 20, "guidance": 4.5, "scheduler": "flow-dpm",
    "size": "256x256", "drawn_size": "256x256", "enhance": False, "model": "builtin", "version": __version__,
}  # fmt: skip
WORDS = [
    "generate",
    PROMPT,
    "--seed",
    "1",
    "--device",
    "cpu",
    "--local",
    "--force",
    "--quiet",
    "--json",
]
PICTURES = {
    "python -c 'import torch'": [],
    "built-in picture": [],
    "built-in picture, tiny decoder": ["--decoder", "tiny"],
}
Times = dict[str, list[Any]]


def timed_commands(runs: int) -> dict[str, Any]:
    """Times of every light command, after one round that warms the file cache."""
    times: Times = {name: [] for name in COMMANDS}
    for run in range(runs + 1):
        for name, arguments in COMMANDS.items():
            elapsed = process_ms(arguments)
            if run:
                times[name].append(elapsed)
    return {name: _row(pairs) for name, pairs in times.items()}


def timed_pictures(runs: int, trees: dict[str, Path], w8a8: Path | None) -> dict[str, Any]:
    """Times of whole pictures with every tree, and the marks of one that stops at each stage; kept prompts."""
    jobs = {name: [*WORDS, *more] for name, more in PICTURES.items()}
    if w8a8 is not None:
        jobs["picture of a w8a8 folder"] = [*WORDS, "--steps", "1", "--model", str(w8a8)]
    times: dict[str, Times] = {label: {name: [] for name in jobs} for label in trees}
    marks: dict[str, list[Any]] = {label: [] for label in trees}
    loads: dict[str, list[float]] = {label: [] for label in trees}
    left_out: dict[str, str] = {}
    order = list(trees)
    for run in range(runs + 1):
        for label in order if run % 2 else reversed(order):
            environment = {**os.environ, "PYTHONPATH": str(trees[label])}
            for name, words in jobs.items():
                if f"{label}: {name}" in left_out:
                    continue
                command = (
                    ["-m", "sana_cli", *words] if "torch" not in name else ["-c", "import torch"]
                )
                try:
                    found = process_ms(command, environment)
                    if "w8a8" in name and run:
                        loads[label].append(_load_ms(command, environment))
                except subprocess.CalledProcessError as error:
                    left_out[f"{label}: {name}"] = f"ended with {error.returncode}"
                    continue
                if run:
                    times[label][name].append(found)
            found_marks = _marks(environment)
            if run:
                marks[label].append(found_marks)
    document: dict[str, Any] = {"left_out": left_out}
    for label in trees:
        rows = {name: _row(pairs) for name, pairs in times[label].items() if pairs}
        document[label] = {"processes": rows, "stages": _stages(marks[label])}
        if loads[label]:
            document[label]["load_of_w8a8_ms"] = round(statistics.median(loads[label]), 1)
    return document


def _marks(environment: dict[str, str]) -> dict[str, tuple[float, float]]:
    """When the stages of one built-in picture begin: milliseconds since the start of the process, wall and main thread."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        driver = Path(__file__).with_name("startup_marks.py")
        began = time.time()
        process_ms([str(driver), file.name, *WORDS], environment)
        found = json.loads(Path(file.name).read_text(encoding="utf-8"))
    return {name: ((wall - began) * 1000, cpu * 1000) for name, (wall, cpu) in found.items()}


def _stages(rounds: list[dict[str, tuple[float, float]]]) -> dict[str, Any]:
    names = sorted(rounds[0], key=lambda name: statistics.median(each[name][0] for each in rounds))
    return {
        name: {
            "wall_ms": round(statistics.median(each[name][0] for each in rounds), 1),
            "main_thread_cpu_ms": round(statistics.median(each[name][1] for each in rounds), 1),
        }
        for name in names
    }


def _load_ms(command: list[str], environment: dict[str, str]) -> float:
    """Read from the command's report how long its parts took to load."""
    done = subprocess.run(
        [sys.executable, *command], check=True, capture_output=True, text=True, env=environment
    )
    return float(json.loads(done.stdout)["images"][0]["seconds"]["load"]) * 1000


def _row(pairs: Iterable[tuple[float, float]]) -> dict[str, float]:
    walls, used = zip(*pairs, strict=True)
    return {
        "median_ms": round(statistics.median(walls), 1),
        "cpu_ms": round(statistics.median(used), 1),
        "p95_ms": round(statistics.quantiles(walls, n=20)[-1], 1) if len(walls) > 1 else walls[0],
        "min_ms": round(min(walls), 1),
    }


def _print_rows(title: str, rows: dict[str, Any]) -> None:
    print(f"\n{title:<36}{'median':>9}{'processor':>11}{'p95':>9}{'min':>9}")
    for name, row in rows.items():
        cells = (row["median_ms"], row["cpu_ms"], row["p95_ms"], row["min_ms"])
        print(f"{name:<36}{cells[0]:>9}{cells[1]:>11}{cells[2]:>9}{cells[3]:>9}")


def _print_stages(title: str, stages: dict[str, Any]) -> None:
    print(f"\n{title:<36}{'wall':>9}{'main thread':>13}")
    for name, row in stages.items():
        print(f"{name:<36}{row['wall_ms']:>9}{row['main_thread_cpu_ms']:>13}")


def main(
    label: Annotated[str, typer.Argument(help="A word for the file's name.")] = "",
    runs: Annotated[int, typer.Option(min=1)] = 9,
    before: Annotated[Path | None, typer.Option(help="Another checkout to compare with.")] = None,
    w8a8: Annotated[Path | None, typer.Option(help="A folder of `sana quantize`.")] = None,
    commands: Annotated[bool, typer.Option(help="Time the light commands, too.")] = True,
) -> None:
    """Time how long `sana` takes to start and to draw, and write the document."""
    here = Path(__file__).resolve().parent.parent
    trees = {**({"before": before.resolve()} if before else {}), "now": here}
    folder = w8a8.resolve() if w8a8 else None
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        os.environ["PYTHONPATH"] = str(here)
        save_png(Image.new("RGB", (256, 256)), Path(NAME), settings=SETTINGS)
        rows = timed_commands(runs) if commands else {}
        pictures = timed_pictures(runs, trees, folder)
        os.chdir(here)
    _print_rows(f"milliseconds, {runs} runs", rows)
    for tree in trees:
        _print_rows(f"{tree}: pictures", pictures[tree]["processes"])
        _print_stages(f"{tree}: until", pictures[tree]["stages"])
    document = {
        "benchmark": "startup", "date": date.today().isoformat(), "goals_ms": GOALS, "runs": runs,
        "version": __version__, "machine": machine(), "state": state(),
        "commands": rows, "pictures": pictures,
    }  # fmt: skip
    record(f"startup{f'-{label}' if label else ''}-{document['date']}", document)


if __name__ == "__main__":
    typer.run(main)
