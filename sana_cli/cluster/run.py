"""Run a batch with Ray Data: stateful workers, small rows, outcomes as they come.

Ray restarts workers that were killed and gives their blocks to others; a block that it gives up comes back in a second
round, one picture a block, so that a picture that kills its worker costs nobody else's. Finished pictures are never
drawn again, since workers look before they draw.
"""

import platform
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sana_cli.cluster.sizing import Pool
from sana_cli.cluster.tasks import Outcome, Task, blocks_of
from sana_cli.cluster.worker import Draw, Setup, take_place

_TASK_RETRIES = 3  # of a block whose worker was killed
_OPENING_FAILURES = 20  # workers that may die in a row while they start, before the run ends


class RayWorker(Draw):
    """A worker under Ray, which knows its node."""

    def __init__(self, setup: Setup) -> None:
        import ray

        take_place(setup.folder, setup.environment)
        node = ray.get_runtime_context().get_node_id()
        super().__init__(setup, node=f"{platform.node()}/{node[:6]}")


@contextmanager
def warming_up(ray: Any) -> Iterator[None]:
    """Start the helpers of Ray Data during the block: three processes, which its first run would wait for."""
    thread = threading.Thread(target=_run_nothing, args=(ray,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()  # a call of Ray after its end would start another Ray


def _run_nothing(ray: Any) -> None:
    import pyarrow as pa

    # The drawing reports what is wrong.
    with suppress(Exception), ray.data.DataContext.current(_context(ray)):
        ray.data.from_arrow(pa.table({"task": [""]})).take_all()


def draw_with_ray(
    ray: Any, tasks: Sequence[Task], setup: Setup, pool: Pool, *, worker: type[Any] = RayWorker
) -> Iterator[Outcome]:
    """Yield one outcome a task, in the order in which pictures are finished.

    `worker` is made of the setup, and called with blocks. A task that no worker survived has an outcome of status "error".
    """
    left = {task.index: task for task in tasks}
    for blocks in (blocks_of(tasks, pool.largest), None):
        if blocks is None:  # the second round
            blocks = [[task] for task in left.values()]
        if not blocks:
            break
        for outcome in _round(ray, blocks, setup, pool, worker):
            if left.pop(outcome.index, None) is not None:
                yield outcome
    for index in left:
        message = "its worker was killed again and again"
        hint = "look at the memory of the nodes; draw this prompt alone, without --ray"
        error = {"code": 3, "message": message, "hint": hint}
        yield Outcome(index=index, status="error", node="", error=error)


def _round(
    ray: Any, blocks: Sequence[Sequence[Task]], setup: Setup, pool: Pool, worker: type[Any]
) -> Iterator[Outcome]:
    import pyarrow as pa

    context = _context(ray)
    context.max_errored_blocks = -1
    context.max_consecutive_actor_init_deaths = _OPENING_FAILURES
    context.execution_no_progress_timeout_s = (
        -1
    )  # large pictures on CPUs take longer than any default
    context.target_max_block_size = 1  # byte: each row travels when its picture is done
    context.target_min_block_size = 0
    tables = [pa.table({"task": [task.to_json() for task in block]}) for block in blocks]
    with ray.data.DataContext.current(context):
        outcomes = ray.data.from_arrow(tables).map_batches(
            worker,
            fn_constructor_args=[setup],
            batch_size=None,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(
                min_size=pool.smallest, max_size=pool.largest, max_tasks_in_flight_per_actor=2
            ),
            num_cpus=pool.num_cpus or None,
            num_gpus=pool.num_gpus or None,
            memory=pool.memory,
            ray_remote_args_fn=_retries,
        )
        for rows in outcomes.iter_batches(
            batch_size=None, prefetch_batches=0, batch_format="numpy"
        ):
            for text in rows["outcomes"]:
                for line in str(text).splitlines():
                    yield Outcome.from_json(line)


def _context(ray: Any) -> Any:
    """Copy the settings of Ray Data, without its own progress on the terminal."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def _retries() -> dict[str, Any]:
    return {"max_task_retries": _TASK_RETRIES}
