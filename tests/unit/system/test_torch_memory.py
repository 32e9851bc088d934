"""Errors that say that no memory is left, in every library's words."""

import pytest
import torch

from sana_cli.errors import is_out_of_memory
from sana_cli.system.torch_memory import peak_memory_bytes, release_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("not enough memory: you tried to allocate 9 bytes"),
        RuntimeError("could not create a primitive"),
        RuntimeError("can't start new thread"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_no_memory(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes"),
        OSError(28, "No space left"),
        ValueError("not enough memory"),
    ],
    ids=str,
)
def test_other_errors(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_a_real_one() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_the_peak_does_not_fall() -> None:
    torch.ones(16 * 2**20, dtype=torch.uint8)
    peak = peak_memory_bytes(CPU)
    release_memory(CPU)
    # Linux counts pages per thread and core and adds them up late: two readings differ by some.
    assert peak_memory_bytes(CPU) >= peak - 2**20
    assert peak > 2**24
