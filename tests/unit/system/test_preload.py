"""Torch's libraries, loaded ahead of the import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sana_cli.system.preload import preload_torch

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch loads them itself")
LOADS = """
import sys
from sana_cli.system.preload import preload_torch
thread = preload_torch()
thread.join()
assert "torch" not in sys.modules
assert "libtorch_cpu.so" in open("/proc/self/maps").read()
"""
IS_LEFT = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1])))
from sana_cli.system.preload import preload_torch
thread = preload_torch()
if thread:
    thread.join()
print("went on")
"""


@LINUX
def test_libraries_are_there_before_torch() -> None:
    subprocess.run([sys.executable, "-c", LOADS], check=True)


@LINUX
@pytest.mark.parametrize("library", [None, b"", b"no library"])
def test_a_damaged_torch_is_left_to_torch(tmp_path: Path, library: bytes | None) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    if library is not None:
        (tmp_path / "torch" / "lib").mkdir()
        (tmp_path / "torch" / "lib" / "libtorch_global_deps.so").write_bytes(library)
    done = subprocess.run(
        [sys.executable, "-c", IS_LEFT, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("went on\n", "")


WHILE_ONE_WAITS = """
import sys
sys.path.insert(0, sys.argv[1])
from sana_cli.system.preload import preload_torch
thread = preload_torch()
open(sys.argv[1] + "/torch/lib/libtorch_global_deps.so", "wb").close()
thread.join()
print("both ran")
"""


@LINUX
def test_python_runs_while_libraries_are_loaded(tmp_path: Path) -> None:
    """The library is a pipe: the loader waits for the other end, which only Python can open."""
    library = tmp_path / "torch" / "lib" / "libtorch_global_deps.so"
    library.parent.mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").touch()
    os.mkfifo(library)
    words = [sys.executable, "-c", WHILE_ONE_WAITS, str(tmp_path)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "both ran\n"


def test_nothing_is_loaded_twice() -> None:
    import torch  # noqa: F401

    assert preload_torch() is None
