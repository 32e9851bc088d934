"""`SanaPipeline(device="cuda")` on the simulated device, as a program uses it: streams, callbacks, threads, closing."""

import threading
from typing import Any

import numpy as np
import pytest

from sana_cli.errors import Cancelled, SanaError
from sana_cli.pipeline import SanaPipeline
from tests.rehearsal.device import Device
from tests.rehearsal.test_commands import assert_quiet

SMALL: dict[str, Any] = {"seed": 3, "steps": 3, "width": 64, "height": 64}
PROMPTS = ["a fox", "a red fox left of a blue house", "a cat"]


def opened(device: str) -> SanaPipeline:
    return SanaPipeline.open("builtin", device=device, precision="fp32", prompt_cache=False)


def pixels(result: Any) -> np.ndarray:
    return np.asarray(result.image).astype(int)


def assert_same(here: list[np.ndarray], there: list[np.ndarray]) -> None:
    assert len(here) == len(there)
    assert max(np.abs(a - b).max() for a, b in zip(here, there, strict=True)) <= 1


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    """The pictures of a CPU."""
    with opened("cpu") as pipe:
        return [pixels(result) for result in pipe.stream(PROMPTS, **SMALL)]


def test_a_stream_shares_one_graph(expected: list[np.ndarray], gpu: Device) -> None:
    """Texts of other lengths, and other sizes in between, draw what they would alone."""
    with opened("cuda") as pipe:
        first = [pixels(result) for result in pipe.stream(PROMPTS, **SMALL)]
        assert gpu.counts["captures"] == 1
        pipe("a ship", **SMALL | {"width": 96})
        again = [pixels(result) for result in pipe.stream(iter(PROMPTS), **SMALL)]
    assert_same(first, expected)
    assert_same(again, expected)
    assert_quiet(gpu)


@pytest.mark.slow
@pytest.mark.parametrize("callback", ["on_step", "on_preview"])
def test_a_cancelled_picture_costs_itself_alone(
    expected: list[np.ndarray], gpu: Device, callback: str
) -> None:
    with opened("cuda") as pipe:
        with pytest.raises(Cancelled):
            pipe(PROMPTS[0], **SMALL, **{callback: lambda *so_far: so_far[-2] < 2})
        assert_quiet(gpu)
        assert_same([pixels(pipe(PROMPTS[0], **SMALL))], expected[:1])
    assert gpu.memory.used == 0


@pytest.mark.slow
def test_an_abandoned_stream_leaves_nothing(gpu: Device) -> None:
    with opened("cuda") as pipe:
        for _ in pipe.stream(PROMPTS, **SMALL):
            break
    assert gpu.memory.used == 0
    assert_quiet(gpu)


@pytest.mark.slow
def test_threads_take_turns(expected: list[np.ndarray], gpu: Device) -> None:
    """Two threads with one pipeline, and two pipelines of a thread each."""
    for pipes in (1, 2):
        found: dict[int, np.ndarray] = {}
        opens = [opened("cuda") for _ in range(pipes)]

        def draw(i: int, opens: Any = opens, found: Any = found) -> None:
            found[i] = pixels(opens[i % len(opens)](PROMPTS[i], **SMALL))

        threads = [threading.Thread(target=draw, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_same([found[0], found[1]], expected[:2])
        for pipe in opens:
            pipe.close()
        assert gpu.memory.used == 0
        assert gpu.counts["failed captures"] == 0
    assert_quiet(gpu)


@pytest.mark.slow
def test_the_parts_one_by_one(expected: list[np.ndarray], gpu: Device) -> None:
    with opened("cuda") as pipe:
        params = pipe.params(PROMPTS[0], **SMALL)
        assert all(branch.is_cuda for branch in pipe.encode(params).branches)
        latents = pipe.denoise(params)
        assert latents.is_cuda
        assert_same([pixels(pipe.decode(latents, params))], expected[:1])
        assert_same([pixels(pipe.decode(latents.cpu().cuda(), params))], expected[:1])


@pytest.mark.slow
def test_closed_it_draws_no_more(gpu: Device) -> None:
    pipe = opened("cuda")
    pipe(PROMPTS[0], **SMALL | {"steps": 1})
    pipe.close()
    pipe.close()
    assert gpu.memory.used == 0
    with pytest.raises(SanaError, match="closed"):
        pipe(PROMPTS[0], **SMALL)
