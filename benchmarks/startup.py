"""Time how long `sana` takes before it does anything: wall and processor time of whole processes.

`python -m benchmarks.startup [LABEL]` prints a table and, as its last line, one JSON document,
which it also writes to `benchmarks/results/`. Commands are interleaved, so that a busy moment
touches all of them; processor time is comparable even on a busy machine.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from PIL import Image

from benchmarks.record import record
from sana_cli import __version__
from sana_cli.images.png import save_png

GOAL_MS = 150  # for help; 300 for commands that only look
RUNS = 15
PICTURE = str(Path(tempfile.gettempdir()) / "sana-startup.png")
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
    "sana info PICTURE": ["-m", "sana_cli", "info", PICTURE],
}
SETTINGS = {
    "prompt": "a red fox", "seed": 7, "steps": 20, "guidance": 4.5, "scheduler": "flow-dpm",
    "size": "256x256", "drawn_size": "256x256", "enhance": False, "model": "builtin", "version": __version__,
}  # fmt: skip


def process_ms(
    arguments: list[str], environment: dict[str, str] | None = None
) -> tuple[float, float]:
    """Run Python to its end; milliseconds by the clock and of the processor. Its output is discarded."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    elapsed, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return elapsed * 1000, used * 1000


def measure() -> dict[str, list[tuple[float, float]]]:
    """Times of every command, after one round that warms the file cache."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for run in range(RUNS + 1):
        for name, arguments in COMMANDS.items():
            elapsed = process_ms(arguments)
            if run:
                times[name].append(elapsed)
    return times


def main() -> None:
    save_png(Image.new("RGB", (256, 256)), Path(PICTURE), settings=SETTINGS, overwrite=True)
    times = measure()
    Path(PICTURE).unlink()
    rows = {
        name: {
            "median_ms": round(statistics.median(values), 1),
            "cpu_ms": round(statistics.median(used for _, used in pairs), 1),
            "p95_ms": round(statistics.quantiles(values, n=20)[-1], 1),
            "min_ms": round(min(values), 1),
        }
        for name, pairs in times.items()
        for values in [[wall for wall, _ in pairs]]
    }
    print(
        f"{'command':<24}{'median':>9}{'processor':>11}{'p95':>9}{'min':>9}   milliseconds, {RUNS} runs"
    )
    for name, row in rows.items():
        print(
            f"{name:<24}{row['median_ms']:>9}{row['cpu_ms']:>11}{row['p95_ms']:>9}{row['min_ms']:>9}"
        )
    document = {
        "benchmark": "startup",
        "date": date.today().isoformat(),
        "goal_ms": GOAL_MS,
        "version": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "load_average": round(os.getloadavg()[0], 1),
        "commands": rows,
    }
    label = f"-{sys.argv[1]}" if len(sys.argv) > 1 else ""
    record(f"startup{label}-{document['date']}", document)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
