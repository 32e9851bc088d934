"""What unit tests share. Kernels run in a process of their own, whose Triton interprets: that is chosen before it is imported."""

import importlib.util
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest


@pytest.fixture(scope="session")
def _interpreter() -> Iterator[ProcessPoolExecutor]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            patch.setenv("OMP_NUM_THREADS", "1")  # tensors are tiny
            pool.submit(int).result()  # the process starts with the first task
        yield pool


@pytest.fixture(scope="session")
def builtin() -> Any:
    """The built-in model, opened."""
    from sana_cli.checkpoints.opening import open_checkpoint

    return open_checkpoint("builtin")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`passes(0.2)`: the clock on the wall goes on by so many seconds, and only then, however busy the machine is."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def later(seconds: float) -> None:
        now[0] += seconds

    return later


@pytest.fixture
def seeded() -> None:
    """Random tensors are the same in every run."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def interpreted(_interpreter: ProcessPoolExecutor) -> Callable[..., Any]:
    """Call a function of `quant.kernels` on CPU tensors, its kernels interpreted."""

    def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return _interpreter.submit(function, *args, **kwargs).result()

    return call
