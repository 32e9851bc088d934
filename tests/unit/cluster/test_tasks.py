"""What travels between driver and workers says everything, and batches are cut so that nobody waits long."""

from collections.abc import Callable

import pytest

from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.cluster.tasks import Outcome, Task, blocks_of
from sana_cli.errors import ExitCode
from sana_cli.request.params import resolve
from tests.unit.cluster.conftest import Planned


@pytest.mark.parametrize(
    ("line", "common"),
    [
        ("a fox", {}),
        ('{"prompt": "a fox", "seed": 5, "steps": 2, "negative_prompt": "a tree"}', {"seed": 9}),
        ("a {red|green} fox", {"wildcards": True}),
        ("a {red|green} fox", {}),
        ("a fox", {"count": 2, "guidance_scale": 3.5}),
    ],
    ids=["plain", "its own settings", "wildcards", "braces", "several seeds"],
)
def test_a_worker_resolves_what_was_planned(
    planned: Callable[..., Planned], line: str, common: dict[str, object]
) -> None:
    plan = planned(line, **common)
    checkpoint = open_checkpoint(plan.setup.model)
    for job, task in zip(plan.batch.jobs, plan.tasks, strict=True):
        again = Task.from_json(task.to_json())
        assert again == Task.from_json(again.to_json())
        assert resolve(again.generation_options, checkpoint) == job.params


def task(index: int) -> Task:
    return Task(index=index, place=f"line {index}", name="x", options={}, planned="")


@pytest.mark.parametrize(("count", "workers"), [(0, 3), (1, 8), (7, 2), (300, 3), (10_000, 64)])
def test_blocks_hold_every_task_once_and_become_smaller(count: int, workers: int) -> None:
    tasks = [task(index) for index in range(count)]
    blocks = blocks_of(tasks, workers)
    assert [each for block in blocks for each in block] == tasks
    sizes = [len(block) for block in blocks]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1:] in ([], [1]), "the last worker keeps nobody waiting"
    if count >= workers:
        assert len(blocks) >= workers, "nobody is idle at the start"
    assert max(sizes, default=0) <= 64


def test_a_failure_names_its_node() -> None:
    error = {"code": 3, "message": "out of memory at 32x32", "hint": "a smaller --size"}
    outcome = Outcome(index=1, status="error", node="n1/abc", error=error)
    failure = Outcome.from_json(outcome.to_json()).failure
    assert failure is not None
    assert (str(failure), failure.code) == ("out of memory at 32x32 (on n1/abc)", ExitCode.ENVIRONMENT)  # fmt: skip
    assert Outcome(index=1, status="drawn", node="n").failure is None
