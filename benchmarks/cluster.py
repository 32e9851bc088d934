"""Draw a file of prompts on a Ray cluster of three nodes on this machine, with and without faults.

`python -m benchmarks.cluster` starts and stops its own clusters (`ray.cluster_utils.Cluster`), one at a time, and draws
with the built-in model on CPUs. Parts, each also alone with `--only`:

same      the pictures of `--prompts` in one process, and of `--ray`: compared bit for bit
faults    a worker is killed at random every 20 pictures, and a node is removed half-way; then the driver is killed and
          the command run again
overhead  `--ray` against as many processes of plain `--prompts`, in turn
many      many small pictures: memory of the driver, time to the first picture after Ray's start

The document goes to `benchmarks/results/cluster.json`. Linux.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import psutil
import typer

from benchmarks.cluster_overhead import Connection, compare, seconds_of_start
from benchmarks.record import RESULTS, record
from sana_cli.bench.machine import machine, state

PARTS = ("same", "faults", "overhead", "many")
_OBJECTS = 100 * 2**20  # bytes of each node's store
_KILL_EVERY = 20  # pictures


@contextmanager
def cluster(nodes: int = 3) -> Iterator[tuple[Any, str, list[Any]]]:
    """A cluster of nodes with a core each; yields it, its address and the nodes besides the head.

    Its files are in a folder of its own: another Ray of this machine stays the one that `--ray auto` finds.
    """
    # Ray runs workers at niceness 15, where any other program on this machine takes their cores.
    with tempfile.TemporaryDirectory(
        prefix="rc-", ignore_cleanup_errors=True
    ) as folder:  # sockets have short names
        variables = {
            "RAY_TMPDIR": folder, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        # This process asks a node that starts for 30 seconds: several times, on a busy machine.
        with mock.patch.dict(os.environ, {"RAY_gcs_server_request_timeout_seconds": "5"}):
            from ray.cluster_utils import Cluster
        with mock.patch.dict(os.environ, variables):
            (Path(folder) / "ray").mkdir()  # `Cluster` writes its address there
            own: dict[str, Any] = {
                "num_cpus": 1, "object_store_memory": _OBJECTS, "memory": 4 * 2**30, "include_dashboard": False,
            }  # fmt: skip
            made = Cluster(initialize_head=True, head_node_args=own)
            try:
                own.pop("include_dashboard")
                others = [made.add_node(**own) for _ in range(nodes - 1)]
                made.wait_for_nodes()
                yield made, made.address, others
            finally:
                made.shutdown()


def words(prompts: Path, out: Path | None, size: int, steps: int) -> list[str]:
    return [
        sys.executable, "-m", "sana_cli", "generate", "--prompts", str(prompts), "--size", str(size), "--steps",
        str(steps), "--device", "cpu", "--precision", "fp32", "--json", "--quiet", *(["-o", f"{out}/"] if out else []),
    ]  # fmt: skip


def prompts_of(folder: Path, count: int) -> Path:
    kinds = ("fox", "lion", "owl", "ship", "tree", "panda", "boat", "house", "bird", "car")
    lines = [f"a {kinds[i % len(kinds)]}, picture {i}" for i in range(count)]
    file = folder / "prompts.txt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def environment(work: Path) -> dict[str, str]:
    """Variables of all commands: one thread each, nothing of this user's, and no server that draws in their place."""
    return {
        "OMP_NUM_THREADS": "1", "SANA_REMEMBER": "false", "SANA_SERVER": "off", "SANA_CACHE": str(work / "cache"),
    }  # fmt: skip


def drawn(out: Path) -> int:
    return len(list(out.glob("*.png"))) if out.is_dir() else 0


def unequal(one: Path, other: Path) -> list[str]:
    """Names that are in one folder only, or whose bytes differ."""
    left, right = ({p.name for p in folder.glob("*.png")} for folder in (one, other))
    differ = (n for n in left & right if (one / n).read_bytes() != (other / n).read_bytes())
    return sorted((left ^ right) | set(differ))


def file_of(path: Path) -> tuple[int, int]:
    """Return inode and time of a file: they change when a picture is written again."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def run(command: list[str]) -> tuple[float, int, list[dict[str, Any]]]:
    """Seconds, exit code and documents of a command."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
    documents = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return time.perf_counter() - started, done.returncode, documents


def rows_of(out: Path) -> list[dict[str, Any]]:
    lines = (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def workers_of_ray() -> list[psutil.Process]:
    """Processes of our clusters that draw."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and "RayWorker" in title:
                found.append(process)
    return found


# -- parts -----------------------------------------------------------------------------------------


def draw_plain(out: Path, prompts: Path, size: int, steps: int) -> float:
    """Draw with one process and no Ray; returns seconds."""
    seconds, code, _ = run(words(prompts, out, size, steps))
    assert code == 0, "plain --prompts failed"
    return seconds


def same(work: Path, prompts: Path, size: int, steps: int) -> dict[str, Any]:
    plain, clustered = work / "plain", work / "clustered"
    seconds = draw_plain(plain, prompts, size, steps)
    with cluster() as (_, address, _nodes):
        ray_seconds, ray_code, documents = run(
            [*words(prompts, clustered, size, steps), "--ray", address]
        )
    rows = rows_of(clustered)
    peaks = [row["peak_memory_bytes"] for row in rows]
    return {
        "pictures": drawn(plain), "exit_code": ray_code, "unequal": unequal(plain, clustered),
        "reported": len(documents), "manifest_rows": len(rows),
        "nodes": sorted({row["node"].partition(":")[0][-6:] for row in rows}).__len__(),
        "seconds_one_process": round(seconds, 1), "seconds_cluster_with_start": round(ray_seconds, 1),
        "worker_peak_mib": round(max(peaks) / 2**20),
        "predicted_peak_mib": round(max(row["predicted_peak_bytes"] for row in rows) / 2**20),
    }  # fmt: skip


def faults(work: Path, prompts: Path, size: int, steps: int) -> dict[str, Any]:
    if not (work / "plain").is_dir():
        draw_plain(work / "plain", prompts, size, steps)
    out, chance, kills = work / "faulty", random.Random(0), 0
    total = len(prompts.read_text(encoding="utf-8").splitlines())
    with cluster() as (made, address, others):
        driver = subprocess.Popen(
            [*words(prompts, out, size, steps), "--ray", address],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        removed_at = None
        assert driver.stdout is not None
        first: dict[Path, tuple[int, int]] = {}  # files as they were when they were reported
        for line in driver.stdout:
            path = Path(json.loads(line)["path"])
            first.setdefault(path, file_of(path))
            seen = len(first)
            if seen % _KILL_EVERY == 0 and (workers := workers_of_ray()):
                chance.choice(workers).kill()
                kills += 1
            if seen >= total // 2 and removed_at is None:
                made.remove_node(others[0], allow_graceful=False)
                removed_at = seen
        code = driver.wait()
        rows = rows_of(out)
        facts = {
            "pictures": drawn(out), "exit_code": code, "workers_killed": kills, "node_removed_at": removed_at,
            "reported": len(first), "written_again": sum(file_of(path) != was for path, was in first.items()),
            "manifest": dict(sorted(_counts(row["status"] for row in rows).items())),
            "unequal": unequal(work / "plain", out), "left_over": _left_over(out),
        }  # fmt: skip
        facts["driver_killed"] = _driver_killed(work, address, prompts, size, steps, total)
    return facts


def _driver_killed(
    work: Path, address: str, prompts: Path, size: int, steps: int, total: int
) -> dict[str, Any]:
    out = work / "killed"
    command = [*words(prompts, out, size, steps), "--ray", address]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while drawn(out) < total // 3 and driver.poll() is None:
        time.sleep(0.2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    there = drawn(out)
    _, code, documents = run(command)
    statuses = _counts(document["status"] for document in documents)
    return {
        "pictures_at_kill": there, "exit_code": code, "rerun": dict(sorted(statuses.items())),
        "pictures": drawn(out), "unequal": unequal(work / "plain", out), "left_over": _left_over(out),
        "manifest_rows": len(rows_of(out)),
    }  # fmt: skip


def _left_over(out: Path) -> list[str]:
    return sorted(
        p.name for p in out.iterdir() if p.suffix != ".png" and p.name != "manifest.jsonl"
    )


def _counts(names: Iterator[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return found


def overhead(work: Path, prompts: Path, size: int, steps: int, rounds: int) -> dict[str, Any]:
    """Two workers of Ray against two plain processes that share the file, in turn."""
    return compare(words(prompts, None, size, steps), work, rounds)


def many(work: Path, count: int, size: int, steps: int) -> dict[str, Any]:
    """The driver's memory and times while it draws many pictures on a cluster that runs already."""
    folder, out = work / "many-prompts", work / "many"
    folder.mkdir()
    prompts = prompts_of(folder, count)
    with cluster() as (_, address, nodes):  # one of its own: a run leaves helpers of Ray Data
        _, start = seconds_of_start(address, 1 + len(nodes))
    with cluster() as (_, address, _nodes):
        started, connection = time.perf_counter(), Connection(out)
        driver = subprocess.Popen(
            [*words(prompts, out, size, steps), "--ray", address],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        process, memory, first, seen, last = psutil.Process(driver.pid), {}, None, 0, 0.0
        assert driver.stdout is not None
        for _ in driver.stdout:
            seen += 1
            first = first or time.perf_counter() - started
            last = time.perf_counter() - started
            if seen in (1, count // 4, count // 2, 3 * count // 4, count):
                memory[seen] = round(process.memory_info().rss / 2**20)
        code = driver.wait()
    since_connected = started + (first or 0) - connection.at
    return {
        "pictures": drawn(out), "asked": count, "exit_code": code, "reported": seen,
        "seconds_to_first_picture_with_all_checks": round(first or 0, 1),
        "seconds_from_connecting_to_first_picture": round(since_connected, 1),
        "seconds_of_rays_start": start, "from_rays_start_to_first_picture": round(since_connected - start, 2),
        "seconds_in_all": round(last, 1), "driver_mib_after_pictures": memory,
    }  # fmt: skip


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Parts: {', '.join(PARTS)}.")] = None,
    count: Annotated[int, typer.Option(help="Pictures of `same` and `faults`.")] = 300,
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 64,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 4,
    rounds: Annotated[int, typer.Option(help="Rounds of `overhead`.")] = 3,
    large: Annotated[int, typer.Option(help="Pictures of `many`.")] = 10_000,
    out: Annotated[Path, typer.Option(help="The folder for cluster.json.")] = RESULTS,
) -> None:
    """Draw on a cluster of three nodes on this machine, and write down what happened."""
    parts = only or list(PARTS)
    path = out / "cluster.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    results: dict[str, Any] = dict(kept.get("results", {}))

    def keep(part: str, facts: dict[str, Any]) -> None:
        results[part] = {"when": datetime.now().isoformat(timespec="minutes"), **facts}
        document = {
            "benchmark": "cluster", "date": date.today().isoformat(), "command": "python -m benchmarks.cluster",
            "machine": {**machine(), "state": state()},
            "nodes": "three, a core and 4 GiB each, on this machine", "results": results,
        }  # fmt: skip
        print(json.dumps(facts, indent=1), record("cluster", document, folder=out), flush=True)

    with (
        tempfile.TemporaryDirectory(prefix="cluster-") as scratch,
        mock.patch.dict(os.environ, environment(Path(scratch))),
    ):
        work = Path(scratch)
        prompts = prompts_of(work, count)
        about = {"options": f"--count {count} --size {size} --steps {steps}"}
        if "same" in parts:
            keep("same", about | same(work, prompts, size, steps))
        if "faults" in parts:
            keep("faults", about | faults(work, prompts, size, steps))
        if "overhead" in parts:
            keep("overhead", about | overhead(work, prompts, size, steps, rounds))
        if "many" in parts:
            about = {"options": f"--large {large} --size {size} --steps {steps}"}
            keep("many", about | many(work, large, size, steps))


if __name__ == "__main__":
    typer.run(main)
