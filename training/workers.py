"""Train data-parallel on one machine: a few processes that average their gradients after every
step.

On a CPU, one process a core with one thread each beats one process with many threads: about 170
against 135 crops a second on 2 idle cores, and far more on a busy machine, where every thread
barrier inside an operator waits for the core that is busy elsewhere. On a GPU there is a single
worker and nothing here does anything.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Number and count of worker processes; number 0 logs and saves."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def average_gradients(self, module: nn.Module) -> None:
        """Replace every gradient by the mean over the workers."""
        if self.count == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        pieces = flat.split([g.numel() for g in gradients])
        torch._foreach_copy_(
            gradients, [p.view_as(g) for p, g in zip(pieces, gradients, strict=True)]
        )

    @torch.no_grad()
    def average_weights(self, module: nn.Module) -> None:
        """Replace every parameter by the mean over the workers."""
        if self.count == 1:
            return
        parameters = list(module.parameters())
        flat = torch.cat([p.reshape(-1) for p in parameters])
        dist.all_reduce(flat)
        flat /= self.count
        pieces = flat.split([p.numel() for p in parameters])
        torch._foreach_copy_(
            parameters, [p.view_as(w) for p, w in zip(pieces, parameters, strict=True)]
        )

    def agree(self, value: float) -> float:
        """The largest of the workers' values, so that all stop at the same step."""
        if self.count == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return float(tensor)

    def share(self, tensor: Tensor) -> list[Tensor]:
        """Every worker's tensor of this shape, in rank order."""
        if self.count == 1:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(gathered, tensor.contiguous())
        return gathered


def run_workers(count: int, function: Callable[..., None], *arguments: object) -> None:
    """Call `function(worker, *arguments)` in `count` processes; in this one when there is one."""
    if count == 1:
        function(Worker(), *arguments)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # glibc reads these when a process starts. Without them every large tensor is fresh pages from the kernel, zeroed
    # at the first touch: a third of a step.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "4000000000")
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "8000000000")
    mp.spawn(_run_one, (count, port, function, arguments), nprocs=count)


def _run_one(
    rank: int, count: int, port: int, function: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    # Else the kernel may leave two workers on one core while other work holds the second.
    if count == len(cores):
        os.sched_setaffinity(0, {cores[rank]})
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count
    )
    try:
        function(Worker(rank=rank, count=count), *arguments)
    finally:
        dist.destroy_process_group()


def default_worker_count() -> int:
    """Return the default number of workers: one a core without a GPU, at most 8; one with a GPU."""
    return 1 if torch.cuda.is_available() else min(8, len(os.sched_getaffinity(0)))
