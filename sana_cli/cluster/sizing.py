"""Choose how many workers a cluster runs, and what each of them gets, by the planner's forecast. No torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.memory.planner import choose_for
from sana_cli.pipeline.batch import Job
from sana_cli.request.runtime import RuntimeOptions
from sana_cli.system.precision import NamedDevice, plan_dtypes
from sana_cli.text import counted, readable_memory

MAX_WORKERS = 10_000
_USUAL_THREADS = 4  # of a worker on a CPU: several small ones draw more than one large one
_GPU_HOST_BYTES = (
    4 * 2**30
)  # memory of the machine, for a worker on a GPU: torch, and a file while it is read
_MIB = 2**20
RAY_BYTES = (
    160 * _MIB
)  # that Ray, Arrow and their buffers take in a worker (benchmarks/results/cluster.json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of the cluster, as Ray schedules it: what it has, not what is free now."""

    name: str
    id: str
    cpus: float
    gpus: float
    memory: int  # bytes that Ray hands out
    gpu_memory: int | None = None  # bytes of one GPU; None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Workers to start, and what Ray reserves for each."""

    smallest: int
    largest: int
    num_cpus: int  # 0 with a GPU: Ray advises against both
    num_gpus: int
    memory: int  # bytes
    max_memory: int | None  # bytes that a worker may plan with; None: what its GPU has
    device: str
    nodes: int

    def __str__(self) -> str:
        count = (
            counted(self.largest, "worker")
            if self.smallest == self.largest
            else f"{self.smallest} to {self.largest} workers"
        )
        each = "1 GPU" if self.num_gpus else counted(self.num_cpus, "core")
        return f"{count} on {counted(self.nodes, 'node')}, each {each} and {readable_memory(self.memory)}"


def parse_workers(text: str) -> tuple[int, int]:
    """Read `--workers`: 4, or 2-8. SanaError (usage) for anything else."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", text)
    low = int(found[1]) if found else 0
    high = int(found[2]) if found and found[2] else low
    if not 1 <= low <= high <= MAX_WORKERS:
        raise usage_error(
            f"--workers cannot be {text!r}", "give a number, or the fewest and the most: 2-8"
        )
    return low, high


def plan_pool(
    checkpoint: Checkpoint,
    runtime: RuntimeOptions,
    jobs: Sequence[Job],
    nodes: Sequence[Node],
    *,
    workers: tuple[int, int] | None,
) -> Pool:
    """Choose the workers for these pictures. SanaError where no node holds one, or fewer than were asked for.

    With GPUs each worker has one of its own. On CPUs as many workers run on a node as its memory holds by the forecast of
    the largest picture, each with a share of its cores; `workers` asks for more of them with fewer cores.
    """
    device = _device(runtime, nodes)
    if device == "cuda":
        return _gpu_pool(checkpoint, runtime, jobs, nodes, workers)
    rooms = [replace(node, cpus=int(node.cpus)) for node in nodes if node.cpus >= 1]
    if not rooms:
        raise _no_room("no node has a core to give", "start the nodes with --num-cpus")
    roomiest = max(node.memory for node in rooms)
    peak = _peak(
        checkpoint, runtime, jobs, "cpu", runtime.max_memory or max(1, roomiest - RAY_BYTES)
    )
    planned = _whole_mib(max(peak, runtime.max_memory or 0))
    memory = planned + RAY_BYTES
    if memory > roomiest:
        raise _no_room(
            f"a worker needs {readable_memory(memory)}, and no node has more than {readable_memory(roomiest)}",
            "give a --max-memory that a node has",
        )
    wanted = workers[1] if workers else None
    threads = _threads(rooms, memory, wanted)
    capacity = _capacity(rooms, memory, threads)
    holds = f"{counted(capacity, 'worker')} of {readable_memory(memory)} each"
    low, high = _range(workers, capacity, len(jobs), holds)
    shares = [
        node.memory // n for node in rooms if (n := _on_node(node, memory, threads)) > 0
    ]  # fmt: skip
    return Pool(
        smallest=low, largest=high, num_cpus=threads, num_gpus=0, memory=memory,
        max_memory=runtime.max_memory or max(planned, min(shares) - RAY_BYTES), device="cpu", nodes=len(nodes),
    )  # fmt: skip


def _gpu_pool(
    checkpoint: Checkpoint,
    runtime: RuntimeOptions,
    jobs: Sequence[Job],
    nodes: Sequence[Node],
    workers: tuple[int, int] | None,
) -> Pool:
    known = [node.gpu_memory for node in nodes if node.gpu_memory]
    if known or runtime.max_memory:
        _peak(checkpoint, runtime, jobs, "cuda", runtime.max_memory or min(known))
    rooms = [node for node in nodes if node.gpus >= 1]
    memory = min(_GPU_HOST_BYTES, min(node.memory // int(node.gpus) for node in rooms))
    capacity = sum(int(node.gpus) for node in rooms)
    low, high = _range(workers, capacity, len(jobs), f"{counted(capacity, 'worker')} of 1 GPU each")
    return Pool(
        smallest=low, largest=high, num_cpus=0, num_gpus=1, memory=_whole_mib(memory) - _MIB,
        max_memory=runtime.max_memory, device="cuda", nodes=len(nodes),
    )  # fmt: skip


def _device(runtime: RuntimeOptions, nodes: Sequence[Node]) -> str:
    has_gpus = any(node.gpus >= 1 for node in nodes)
    if runtime.device == "auto":
        return "cuda" if has_gpus else "cpu"
    if runtime.device == "mps":
        raise usage_error(
            "--ray draws on CPUs and NVIDIA's GPUs, not on --device mps", "omit --ray"
        )
    if runtime.device == "cuda" and not has_gpus:
        raise _no_room(
            "no node of the cluster has a GPU", "use --device cpu, or start nodes with GPUs"
        )
    return runtime.device


def _peak(
    checkpoint: Checkpoint, runtime: RuntimeOptions, jobs: Sequence[Job], device: str, cap: int
) -> int:
    """Return the predicted peak of the largest picture, in bytes, under the fastest plan that fits into `cap`.

    SanaError where none fits.
    """
    where = NamedDevice(device)
    dtypes = plan_dtypes(runtime.precision, checkpoint.trained_precision, where)
    held = replace(runtime, max_memory=cap)
    alike = {job.cost: job for job in jobs}
    return max(
        choose_for(
            checkpoint, held, job.params, dtypes, where,
            cap_source="" if runtime.max_memory else "the largest node", several=True, warm=True, text_is_cached=False,
        ).peak.total
        for job in alike.values()
    )  # fmt: skip


def _range(
    workers: tuple[int, int] | None, capacity: int, pictures: int, holds: str
) -> tuple[int, int]:
    """Return the fewest and the most workers to start. SanaError where the cluster holds fewer than are asked for."""
    low, high = workers or (1, capacity)
    if low > capacity:
        raise _no_room(
            f"the cluster holds {holds}, and --workers asks for {low}",
            f"use --workers {capacity}, or add nodes",
        )
    high = min(high, capacity, pictures)
    return min(low, high), high


def _threads(nodes: Sequence[Node], memory: int, wanted: int | None) -> int:
    """Return the cores of a worker: as many as leave room for the workers that are wanted."""
    most = int(max(node.cpus for node in nodes if node.memory >= memory))
    if wanted is None:
        return min(_USUAL_THREADS, most)
    fitting = (n for n in range(most, 0, -1) if _capacity(nodes, memory, n) >= wanted)
    return next(fitting, 1)


def _capacity(nodes: Sequence[Node], memory: int, threads: int) -> int:
    return sum(_on_node(node, memory, threads) for node in nodes)


def _on_node(node: Node, memory: int, threads: int) -> int:
    return min(int(node.cpus) // threads, node.memory // memory)


def _whole_mib(amount: int) -> int:
    return -(-amount // _MIB) * _MIB


def _no_room(message: str, hint: str) -> SanaError:
    return SanaError(message, hint=hint, code=ExitCode.ENVIRONMENT)
