"""Models in memory under one cap."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.memory.planner import choose_for
from sana_cli.request.params import resolve
from sana_cli.request.runtime import RuntimeOptions
from sana_cli.server.forecast import RESERVED
from sana_cli.server.jobs import Work
from sana_cli.server.model_pool import ModelPool
from sana_cli.system.precision import NamedDevice, plan_dtypes

MIB = 2**20


@pytest.fixture(scope="module")
def work() -> Work:
    checkpoint = open_checkpoint("builtin")
    options = GenerationOptions(prompt="a cat", seed=1, width=64, height=64, steps=1)
    runtime = RuntimeOptions(device="cpu", precision="fp32")
    params = (resolve(options, checkpoint),)
    return Work(options=options, checkpoint=checkpoint, runtime=runtime, pictures=params)


@pytest.fixture(scope="module")
def peak(work: Work) -> int:
    device = NamedDevice("cpu")
    dtypes = plan_dtypes("fp32", work.checkpoint.trained_precision, device)
    plan = choose_for(
        work.checkpoint, work.runtime, work.pictures[0], dtypes, device, several=True,
        text_is_cached=False, warm=True, reserved=RESERVED,
    )  # fmt: skip
    return plan.peak.total


def pool_of(max_memory: int | None, keep_alive: float | None = None) -> Iterator[ModelPool]:
    pool = ModelPool(max_memory=max_memory, keep_alive=keep_alive)
    yield pool
    pool.close()


def drawn(pool: ModelPool, *works: Work) -> None:
    for work in works:
        pool.pipeline_for(work)(work.pictures[0])


@pytest.mark.parametrize(("room", "kept"), [(5 * MIB, 1), (200 * MIB, 2)])
def test_the_least_recently_used_makes_room(work: Work, peak: int, room: int, kept: int) -> None:
    other = replace(work, runtime=replace(work.runtime, prompt_cache=False))
    for pool in pool_of(peak + room):
        drawn(pool, work, other)
        status = pool.status()
        assert len(status["loaded"]) == kept
        assert status["evictions"] == 2 - kept
        assert pool.is_warm(other)


def test_the_cap_holds_the_server_and_the_picture(work: Work, peak: int) -> None:
    for pool in pool_of(peak - 1):
        pipeline = pool.pipeline_for(work)
        pipeline(work.pictures[0])
        planning = pipeline.components.planning
        assert not planning.plan.keeps_text  # that plan takes one byte more


@pytest.mark.parametrize(
    ("cap", "asked", "taken", "reserved"),
    [
        (None, None, None, 0), (None, 500, 500, 0), (900, None, 900, RESERVED), (900, 500, 500, 0),
        (900, 861, 900, RESERVED), (900, 860, 860, 0), (900, 2000, 900, RESERVED),
    ],
)  # fmt: skip
def test_a_request_s_own_cap_is_for_its_picture_alone(
    work: Work, cap: int | None, asked: int | None, taken: int | None, reserved: int
) -> None:
    own = None if asked is None else asked * MIB
    for pool in pool_of(None if cap is None else cap * MIB):
        limited = replace(work, runtime=replace(work.runtime, max_memory=own))
        components = pool.pipeline_for(limited).components
        assert components.runtime.max_memory == (None if taken is None else taken * MIB)
        assert components.planning.reserved == reserved


def test_parts_that_a_plan_leaves_behind_make_room(work: Work) -> None:
    """A plan by stages keeps nothing and is counted so, but its decoder stays until the next picture."""
    other = replace(work, runtime=replace(work.runtime, prompt_cache=False))
    staged = replace(work, runtime=replace(work.runtime, plan="stages"))
    for pool in pool_of(2**40):
        first = pool.pipeline_for(staged)
        first(work.pictures[0])
        assert first.components.is_loaded
        assert not first.kept_bytes
        drawn(pool, other)
        assert not first.components.is_loaded
        assert pool.evictions == 0


def test_an_idle_model_goes_when_its_time_is_over(work: Work) -> None:
    for pool in pool_of(None, keep_alive=0.0):
        drawn(pool, work)
        assert pool.next_expiry() == 0
        pool.evict_idle()
        assert pool.status()["loaded"] == []
        assert pool.next_expiry() is None
        drawn(pool, work)  # it comes back
