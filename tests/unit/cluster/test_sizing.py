"""How many workers a cluster holds: by memory, cores and GPUs, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.cluster.sizing import Node, Pool, parse_workers, plan_pool
from sana_cli.errors import ExitCode, SanaError
from sana_cli.request.runtime import RuntimeOptions
from tests.unit.cluster.conftest import Planned

GIB = 2**30


@pytest.fixture
def pool(planned: Callable[..., Planned]) -> Callable[..., Pool]:
    """Plan the workers of 50 pictures on nodes that are given as (cores, GPUs, GiB)."""
    plan = planned(*(f"picture {i}" for i in range(50)))
    checkpoint = open_checkpoint(plan.setup.model)

    def run(
        *nodes: tuple[float, ...], workers: tuple[int, int] | None = None, **runtime: Any
    ) -> Pool:
        made = [
            Node(name=f"n{i}", id=str(i), cpus=cpus, gpus=gpus, memory=int(gib * GIB))
            for i, (cpus, gpus, gib) in enumerate(nodes)
        ]
        return plan_pool(
            checkpoint, RuntimeOptions.of(**{"precision": "fp32"} | runtime), plan.batch.jobs, made,
            workers=workers,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("nodes", "workers", "sizes"),
    [
        ([(8, 0, 64)], None, (1, 2, 4)),  # 4 cores each
        ([(8, 0, 64)], (8, 8), (8, 8, 1)),  # all that were asked for
        ([(8, 0, 64), (2, 0, 64)], (1, 3), (1, 3, 2)),
        ([(2, 0, 64)] * 3, None, (1, 3, 2)),
        ([(64, 0, 0.5)], None, (1, 1, 4)),  # memory holds one
        ([(8, 0, 0.1), (2, 0, 64)], None, (1, 1, 2)),  # memory and cores of one node, not of two
        ([(2000, 0, 4000)], None, (1, 50, 4)),  # no more than pictures
    ],
)
def test_workers_on_cpus(
    pool: Callable[..., Pool],
    nodes: list[tuple[float, ...]],
    workers: tuple[int, int] | None,
    sizes: tuple[int, int, int],
) -> None:
    found = pool(*nodes, workers=workers)
    assert (found.smallest, found.largest, found.num_cpus) == sizes
    assert found.num_gpus == 0
    assert found.memory > (found.max_memory or 0) - 4000 * GIB


def test_a_worker_may_plan_with_what_it_gets(pool: Callable[..., Pool]) -> None:
    alone, shared = pool((4, 0, 8)), pool((4, 0, 8), workers=(4, 4))
    assert alone.memory == shared.memory
    assert 1.9 * GIB > (shared.max_memory or 0) >= shared.memory - GIB // 4
    assert (alone.max_memory or 0) > 3 * (shared.max_memory or 0)
    capped = pool((4, 0, 8), max_memory=3 * GIB)
    assert capped.max_memory == 3 * GIB
    assert (capped.largest, capped.memory > 3 * GIB) == (1, True)


def test_a_worker_has_a_gpu_of_its_own(pool: Callable[..., Pool]) -> None:
    found = pool((32, 4, 256), (16, 0, 64), precision="auto")
    assert (found.device, found.largest, found.num_gpus, found.num_cpus) == ("cuda", 4, 1, 0)
    assert pool((32, 4, 256), device="cpu").device == "cpu"


@pytest.mark.parametrize(
    ("nodes", "given", "words"),
    [
        ([(8, 0, 0.1)], {}, "no plan fits"),
        ([(8, 0, 8)], {"max_memory": 9 * GIB}, "no node has more"),
        ([(0, 0, 8)], {}, "no node has a core"),
        ([(2, 0, 64)], {"workers": (3, 4)}, "the cluster holds 2 workers of .* each, and"),
        (
            [(2, 1, 64)],
            {"workers": (2, 2), "precision": "auto"},
            "the cluster holds 1 worker of 1 GPU each, and",
        ),
        ([(2, 0, 64)], {"device": "cuda"}, "no node of the cluster has a GPU"),
        ([(2, 0, 64)], {"device": "mps"}, "not on --device mps"),
    ],
)
def test_what_no_node_holds_is_told(
    pool: Callable[..., Pool], nodes: list[tuple[float, ...]], given: dict[str, Any], words: str
) -> None:
    with pytest.raises(SanaError, match=words):
        pool(*nodes, **given)


@pytest.mark.parametrize(("text", "range_"), [("4", (4, 4)), ("2-8", (2, 8)), (" 1 - 2 ", (1, 2))])
def test_numbers_of_workers(text: str, range_: tuple[int, int]) -> None:
    assert parse_workers(text) == range_


@pytest.mark.parametrize("text", ["0", "3-2", "many", "-1", "1-", "99999999", "1.5", "2-10001"])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(SanaError, match="--workers cannot be") as error:
        parse_workers(text)
    assert error.value.code == ExitCode.USAGE
