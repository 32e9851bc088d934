"""Time a picture while other programs run, by how long OpenMP's waiting threads spin: whole
processes.

`python -m benchmarks.busy --work FOLDER` draws with the built-in model and with a random one of
Sana-0.6B's shapes (7 GB, kept in FOLDER; `--medium` makes a narrower one), on the machine as it is
and next to four busy loops, which it starts and stops. Every round runs each variant once in both
states, forwards and then backwards, so that a change of the machine hits all alike. The document
goes to `benchmarks/results/busy.json`: medians, and every value. `--ways` compares numbers of threads, too. Linux, where torch comes with
libgomp.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.process_times import process_ms
from benchmarks.record import RESULTS, record
from sana_cli.bench.machine import machine, state
from sana_cli.bench.random_model import write_model
from sana_cli.system.cpu import WAITING_VARIABLES, cores

# `sana` leaves the threads alone where one of these is set. 300,000 rounds are libgomp's own default.
VARIANTS = {
    "default": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "1000": {"GOMP_SPINCOUNT": "1000"},
    "10000": {"GOMP_SPINCOUNT": "10000"},
    "100000": {"GOMP_SPINCOUNT": "100000"},
}
# More than how long threads spin (`--ways`): next to four loops on two cores a program of two threads gets a third.
WAYS = {
    "1000": {"GOMP_SPINCOUNT": "1000"},
    "100": {"GOMP_SPINCOUNT": "100"},
    "0": {"GOMP_SPINCOUNT": "0"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "a thread fewer": {"GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": str(max(1, cores() - 1))},
    "two threads more": {"GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": str(cores() + 2)},
}
_LOOPS = 4
# It ends with the process that started it, however that ended.
_LOOP = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    for _ in range(10**5): pass"


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep `count` processes running in loops within the block."""
    command = [sys.executable, "-c", _LOOP, str(os.getpid())]
    with ExitStack() as stack:
        for _ in range(count):
            loop = stack.enter_context(subprocess.Popen(command))
            stack.callback(loop.kill)  # before the end of the process is waited for
        yield


def words_of(model: str, size: int, steps: int, picture: Path) -> list[str]:
    return [
        "-m", "sana_cli", "generate", "a red fox", "--local", "--model", model, "--size", f"{size}x{size}",
        "--steps", str(steps), "--seed", "1", "--device", "cpu", "--no-prompt-cache", "--quiet",
        "--force", "--output", str(picture),
    ]  # fmt: skip


def measure(
    jobs: dict[str, list[str]], rounds: int, variants: dict[str, dict[str, str]] = VARIANTS
) -> dict[str, Any]:
    """Time every job in every variant and state: seconds by job, state and variant, in the order of the rounds."""
    decided = (*WAITING_VARIABLES, "OMP_NUM_THREADS", "OMP_DYNAMIC")
    clean = {name: value for name, value in os.environ.items() if name not in decided}
    found: dict[str, Any] = {
        job: {state: {variant: [] for variant in variants} for state in ("quiet", "busy")}
        for job in jobs
    }
    for arguments in jobs.values():  # fills the system's cache, and chooses kernels
        process_ms(arguments, clean | variants["1000"])
    for number in range(rounds):
        order = list(variants) if number % 2 == 0 else list(variants)[::-1]
        for job, arguments in jobs.items():
            for name, loops in (("quiet", 0), ("busy", _LOOPS)):
                with busy_loops(loops):
                    for variant in order:
                        elapsed, _ = process_ms(arguments, clean | variants[variant])
                        found[job][name][variant].append(round(elapsed / 1000, 2))
                        print(f"{number + 1}/{rounds} {job} {name} {variant}: {elapsed / 1000:.2f} s", flush=True)  # fmt: skip
    return found


def medians(times: dict[str, Any]) -> dict[str, Any]:
    """Median seconds, by job, state and variant."""
    return {
        job: {
            name: {variant: round(statistics.median(v), 2) for variant, v in variants.items()}
            for name, variants in states.items()
        }
        for job, states in times.items()
    }


def main(
    work: Annotated[Path, typer.Option(help="Where the random model goes; 7 GB free.")],
    rounds: Annotated[int, typer.Option(min=1, help="Times that each variant runs.")] = 5,
    medium: Annotated[bool, typer.Option(help="A narrower random model: 1 GB.")] = False,
    ways: Annotated[
        bool, typer.Option(help="Other ways, too; the document is busy-ways.json.")
    ] = False,
    builtin_only: Annotated[bool, typer.Option(help="No random model.")] = False,
    out: Annotated[Path, typer.Option(help="The folder for busy.json.")] = RESULTS,
) -> None:
    """Time a picture on a quiet and on a busy machine, by the ways in which OpenMP's threads wait."""
    with tempfile.TemporaryDirectory() as scratch:
        picture = Path(scratch) / "a.png"
        jobs = {"builtin, 256 pixels, 20 steps": words_of("builtin", 256, 20, picture)}
        if not builtin_only:
            model = work / ("medium" if medium else "sana-0.6b")
            if not model.is_dir():
                work.mkdir(parents=True, exist_ok=True)
                write_model("sana-0.6b", model, medium=medium)
            jobs[f"{model.name}, random weights, 512 pixels, 2 steps"] = words_of(
                str(model), 512, 2, picture
            )
        variants, name = (WAYS, "busy-ways") if ways else (VARIANTS, "busy")
        times = measure(jobs, rounds, variants)
    document = {
        "benchmark": name,
        "date": date.today().isoformat(),
        "command": "python -m benchmarks.busy --work FOLDER" + (" --ways" if ways else ""),
        "machine": {**machine(), "state": state()},
        "busy_loops": _LOOPS,
        "variants": variants,
        "median_s": medians(times),
        "seconds": times,
    }
    path = record(name, document, folder=out)
    for job, states in medians(times).items():
        print(job)
        for condition, seconds in states.items():
            print(f"  {condition}: " + ", ".join(f"{v} {s} s" for v, s in seconds.items()))
    print(path)


if __name__ == "__main__":
    typer.run(main)
