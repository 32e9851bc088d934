"""Torch's libraries, loaded ahead of the import."""

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


def test_nothing_is_loaded_twice() -> None:
    import torch  # noqa: F401

    assert preload_torch() is None
