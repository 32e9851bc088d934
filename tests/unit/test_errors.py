"""Errors say what their last reader knew."""

import pytest
import torch

from sana_cli.errors import ExitCode, SanaError, explained


def test_what_is_added_later_is_shown() -> None:
    error = SanaError("a.weight is missing")
    error.message = f"mine is no Sana pipeline: {error.message}"
    assert str(error) == "mine is no Sana pipeline: a.weight is missing"


@pytest.mark.parametrize("kind", [RuntimeError, OSError, ImportError, MemoryError])
@pytest.mark.parametrize(
    "words",
    [
        "libtorch_cpu.so: failed to map segment from shared object",
        "[Errno 12] Cannot allocate memory",
        "could not create a primitive",
    ],
)
def test_too_little_memory_in_any_words(kind: type[Exception], words: str) -> None:
    """A library that a limit of memory keeps from being loaded is whole: to install it again mends nothing."""
    error = explained(kind(words))
    assert error is not None
    assert (error.message, error.code) == ("out of memory", ExitCode.ENVIRONMENT)
    assert "install" not in error.hint


def test_a_broken_package_is_named() -> None:
    error = explained(ImportError("libx.so: cannot open shared object file", name="x"))
    assert error is not None
    assert error.message.startswith("the package x is missing or broken: libx.so")
    assert "install" in error.hint


def test_a_device_that_stops_while_drawing_is_told() -> None:
    error = explained(torch.AcceleratorError("CUDA error: an illegal memory access\nmore"))
    assert error is not None
    assert error.message == "the device stopped (CUDA error: an illegal memory access)"
    assert ("--backend reference" in error.hint, error.code) == (True, ExitCode.ENVIRONMENT)
