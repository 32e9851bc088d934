"""A kernel's digest changes with what decides its machine code, and with nothing else."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kernel_digest import digest_of

SOURCE = """
import triton
import triton.language as tl

STEP = tl.constexpr(2)
UNUSED = tl.constexpr(2)


@triton.jit
def _stepped(x):
    return x * STEP


@triton.jit
def add_kernel(x_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(x_ptr + at, _stepped(tl.load(x_ptr + at)))
"""
HOW = {"num_warps": 4, "constants": [("N", "16")]}


def digest(folder: Path, *change: str, **how: Any) -> str:
    """Of the kernel, with a part of the source replaced by another."""
    path = folder / f"kernels{len(list(folder.iterdir()))}.py"
    path.write_text(SOURCE.replace(*change) if change else SOURCE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("kernels_to_digest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return digest_of(module.add_kernel, HOW | how)


@pytest.fixture(autouse=True)
def _triton() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")


@pytest.mark.parametrize(
    "change",
    [
        ("STEP = ", "\n\nOTHER = 3\n\n\nSTEP = "),
        ("    at = ", "    # Why.\n\n    at = "),
        ("UNUSED = tl.constexpr(2)", "UNUSED = tl.constexpr(3)"),
        ("(x_ptr, N: tl.constexpr)", "(\n    x_ptr, N: tl.constexpr\n)"),
    ],
    ids=["another line", "a comment", "what it does not read", "how it is laid out"],
)
def test_it_stays(tmp_path: Path, change: tuple[str, str]) -> None:
    assert digest(tmp_path, *change) == digest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        ("x * STEP", "x + STEP"),
        ("STEP = tl.constexpr(2)", "STEP = tl.constexpr(3)"),
        ("at = tl", "at = 1 + tl"),
    ],
    ids=["what it calls", "a constant", "its own source"],
)
def test_it_changes(tmp_path: Path, change: tuple[str, str]) -> None:
    assert digest(tmp_path, *change) != digest(tmp_path)


def test_it_is_of_how_the_kernel_is_compiled_too(tmp_path: Path) -> None:
    assert digest(tmp_path, num_warps=8) != digest(tmp_path)
    assert digest(tmp_path, constants=[("N", "32")]) != digest(tmp_path)
