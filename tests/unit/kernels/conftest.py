"""Compiling needs a process in which no kernel was interpreted: Triton's interpreter changes the language for good."""

import os
import subprocess
import sys

import pytest


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test of `test_compile.py` in a process of its own where the rehearsal was here before."""
    if pyfuncitem.path.name != "test_compile.py" or "triton.runtime.interpreter" not in sys.modules:
        return None
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("TRITON_INTERPRET", "PYTEST_"))
    }
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-o",
        "addopts=",
    ]
    test = f"{pyfuncitem.path}::{pyfuncitem.name}"
    done = subprocess.run(
        [*words, "--import-mode=importlib", test], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return True


@pytest.fixture(autouse=True)
def _seeded(seeded: None) -> None:
    """Every test here draws random tensors."""
