"""Compare `--ray` with as many processes of plain `--prompts`, over the same phases. Part of `python -m benchmarks.cluster`.

Plain processes encode all texts before their first picture, workers of Ray those of a block at a time. Pictures' times alone
therefore favour the plain ones. What is compared is the whole command, less the start of Ray: an empty run of Ray Data, with
as many workers that do nothing, up to their first answer (`start_ray`).
"""

import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

PROCESSES = 2
_SAMPLE_S = 1.0
_PROGRAMS = (
    "gcs_server", "raylet/raylet", "log_monitor", "dashboard/dashboard", "monitor.py", "RayWorker", "_StatsActor",
    "_AutoscalingCoordinatorActor", "ActorLocationTracker", "IDLE", "Agent",
)  # fmt: skip


class Idle:
    """A worker that answers at once."""

    def __init__(self, setup: object) -> None:
        del setup

    def __call__(self, block: Mapping[str, Sequence[str]]) -> Iterator[dict[str, list[str]]]:
        from sana_cli.cluster.tasks import Outcome, Task

        for text in block["task"]:
            outcome = Outcome(index=Task.from_json(str(text)).index, status="done", node="")
            yield {"outcomes": [outcome.to_json()]}


def start_ray(address: str | None, workers: int) -> None:
    """Start Ray, or connect to it, and its workers as the command does. In a process of its own.

    Say when it is connected, and when a worker has answered.
    """
    from sana_cli.cluster.connection import connected
    from sana_cli.cluster.run import draw_with_ray
    from sana_cli.cluster.sizing import Pool
    from sana_cli.cluster.tasks import Task

    pool = Pool(
        smallest=workers, largest=workers, num_cpus=1, num_gpus=0, memory=2**28, max_memory=None, device="cpu", nodes=1,
    )  # fmt: skip
    tasks = [Task(index=i, place="", name="", options={}, planned="") for i in range(4 * workers)]
    setup: Any = None
    with connected(address) as ray:
        print("connected", flush=True)
        for _ in draw_with_ray(ray, tasks, setup, pool, worker=Idle):
            print("answered", flush=True)
            break


class Meter:
    """Processor seconds of processes and all their children, by program; sampled, since they end with the command."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._roots = [process.pid for process in processes]
        self._seconds: dict[int, tuple[str, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        self._ended.set()
        self._thread.join()
        found: dict[str, float] = {}
        for name, seconds in self._seconds.values():
            found[name] = found.get(name, 0.0) + seconds
        ordered = sorted(found.items(), key=lambda item: -item[1])
        return {name: round(seconds, 2) for name, seconds in ordered if seconds >= 0.05}

    def _run(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            for root in self._roots:
                with suppress(psutil.Error):
                    process = psutil.Process(root)
                    for each in (process, *process.children(recursive=True)):
                        self._sample(each, is_root=each is process)

    def _sample(self, process: psutil.Process, *, is_root: bool) -> None:
        with suppress(psutil.Error):
            times, title = process.cpu_times(), " ".join(process.cmdline())
            name = next((name for name in _PROGRAMS if name in title), "others")
            self._seconds[process.pid] = ("command" if is_root else name, times.user + times.system)


def one_run(commands: Sequence[Sequence[str]], out: Path) -> dict[str, Any]:
    """Run commands side by side; seconds of all, from the first picture's start, and processor seconds by program."""
    logs = [out.with_name(f"{out.name}-{index}.jsonl") for index in range(len(commands))]
    started = time.time()
    with_logs = zip(commands, logs, strict=True)
    processes = [
        subprocess.Popen(command, stdout=log.open("w"), text=True) for command, log in with_logs
    ]
    meter = Meter(processes)
    assert [process.wait() for process in processes] == [0] * len(processes)
    whole, processors = time.time() - started, meter.stop()
    documents = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    ends = {
        doc["path"]: Path(doc["path"]).stat().st_mtime
        for doc in documents
        if doc["status"] == "drawn"
    }
    begun = min(
        ends[doc["path"]] - doc["seconds"]["total"] for doc in documents if doc["path"] in ends
    )
    shutil.rmtree(out)
    return {
        "whole": round(whole, 2), "to_first_picture": round(min(ends.values()) - started, 2),
        "first_start_to_last_end": round(max(ends.values()) - begun, 2), "processor_seconds": processors,
    }  # fmt: skip


class Connection:
    """When a command was connected to Ray: it leaves a file in the output then, for the nodes to find."""

    def __init__(self, out: Path) -> None:
        self._out, self.at = out, 0.0  # by the clock of `time.perf_counter`; 0: not yet
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not (self._out.is_dir() and any(self._out.glob(".sana-*.tmp"))):
            time.sleep(0.02)
        self.at = time.perf_counter()


def seconds_of_start(address: str | None = None, workers: int = PROCESSES) -> tuple[float, float]:
    """Seconds to the first answer of an empty run of Ray Data: from the start of its process, and since it is connected."""
    started = time.perf_counter()
    call = f"start_ray({address!r}, {workers})"
    command = [sys.executable, "-c", f"from benchmarks.cluster_overhead import start_ray; {call}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        connected = time.perf_counter()
        assert process.stdout.readline() == "answered\n"
        answered = time.perf_counter()
    return round(answered - started, 2), round(answered - connected, 2)


def compare(command: Sequence[str], work: Path, rounds: int) -> dict[str, Any]:
    """Draw with plain processes and with Ray, in turn. `command` ends where `-o FOLDER` and `--ray` are added."""
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "ray": []}
    starts = []
    for number in range(rounds):
        starts.append(seconds_of_start()[0])
        for way in ("plain", "ray") if number % 2 == 0 else ("ray", "plain"):
            out = work / f"overhead-{way}-{number}"
            into = [*command, "-o", f"{out}/"]
            count = str(PROCESSES)
            commands = [into] * PROCESSES if way == "plain" else [[*into, "--ray", "local", "--workers", count]]  # fmt: skip
            runs[way].append(one_run(commands, out))
            print(f"{way} {number}: {runs[way][-1]}, Ray starts in {starts[-1]} s", flush=True)
    pairs = list(zip(runs["plain"], runs["ray"], starts, strict=True))
    beyond = [(ray["whole"] - start) / plain["whole"] for plain, ray, start in pairs]
    spans = [ray["first_start_to_last_end"] / plain["first_start_to_last_end"] for plain, ray, _ in pairs]  # fmt: skip
    return {
        "processes": PROCESSES, "seconds_of_rays_start": starts, "runs": runs,
        "from_rays_start_to_first_picture": [
            round(ray["to_first_picture"] - start, 2) for _, ray, start in pairs
        ],
        "ray_less_start_to_plain": [round(ratio, 3) for ratio in beyond],
        "ray_to_plain_while_drawing": [round(ratio, 3) for ratio in spans],
        "median": round(statistics.median(beyond), 3), "median_while_drawing": round(statistics.median(spans), 3),
    }  # fmt: skip
