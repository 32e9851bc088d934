"""Kernels read and write beyond 2^31 values: pictures of 4096 pixels have 2^31 in the decoder's last maps.

Triton's interpreter runs the first and the last program alone, on memory that is reserved and never touched elsewhere. Each kernel has
a process of its own: an offset that has wrapped around reads what is not there. A fault is planted in the kernel's source.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rehearsal.far_rows import CASES

ROOT = Path(__file__).parents[2]


def run(case: str, tmp_path: Path, *, fault: bool = False) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "tests.rehearsal.far_rows", case]
    if fault:
        words.append(str(tmp_path))
    environment = {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
def test_rows_beyond_two_to_the_31(tmp_path: Path, case: str) -> None:
    done = run(case, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
def test_an_offset_of_32_bits_is_caught(tmp_path: Path, caught: object, case: str) -> None:
    done = run(case, tmp_path, fault=True)
    # A call that does not fit the kernel ends the process, too, and is no evidence.
    seen = done.returncode < 0 or "is off by" in done.stderr
    evidence = f"process: ended with {done.returncode}" if seen else ""
    assert callable(caught)
    caught(f"an int32 offset in {case}", evidence)
    assert evidence
