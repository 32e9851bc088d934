"""Compiling needs a process in which no kernel was interpreted: Triton's interpreter changes the language for good."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test of `test_compile.py` in a process of its own where the rehearsal was here before."""
    if pyfuncitem.path.name != "test_compile.py" or "triton.runtime.interpreter" not in sys.modules:
        return None
    slow = pyfuncitem.get_closest_marker("slow") is not None
    told = _run(f"{pyfuncitem.path}::{pyfuncitem.name}") if slow else _quick(pyfuncitem.path)
    assert re.search(rf"^PASSED \S+::{re.escape(pyfuncitem.name)}$", told, re.MULTILINE), told
    return True


@functools.cache
def _quick(path: Path) -> str:
    """All that are not slow, in one process: it imports torch and Triton, which takes longer than most kernels."""
    return _run(str(path), "-m", "not slow")


def _run(*words: str) -> str:
    """Return what pytest says of each test."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("TRITON_INTERPRET", "PYTEST_"))
    }
    plugins = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:schemathesis")
    command = [sys.executable, "-m", "pytest", "-q", "-rA", *plugins, "-o", "addopts="]
    done = subprocess.run(
        [*command, "--import-mode=importlib", *words],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.fixture(autouse=True)
def _seeded(seeded: None) -> None:
    """Every test here draws random tensors."""
