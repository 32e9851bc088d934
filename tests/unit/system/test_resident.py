"""Memory of this process, as the kernel counts it."""

import ctypes
import mmap
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from sana_cli.system.resident import _malloc_trim, give_back, peak_resident_bytes, resident_bytes

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
MIB = 2**20


@linux
def test_memory_that_is_held_is_counted() -> None:
    before = resident_bytes()
    held = mmap.mmap(-1, 64 * MIB)  # never of what the heap has kept from other tests
    for page in range(0, len(held), 4096):
        held[page] = 1
    assert resident_bytes() - before > 60 * MIB
    peak = peak_resident_bytes()
    assert peak is not None
    assert peak >= resident_bytes() - MIB
    held.close()
    give_back()
    assert resident_bytes() - before < 32 * MIB


def test_the_kernel_counts_in_kibibytes(system_file: Callable[..., None]) -> None:
    system_file("/proc/self/status", "Name:\tsana\nVmHWM:\t    7 kB\nVmRSS:\t    5 kB\n")
    assert peak_resident_bytes() == 7 * 1024


@pytest.mark.parametrize("text", [None, "Name:\tsana\n", "VmHWM:\n"])
def test_a_system_that_does_not_say(system_file: Callable[..., None], text: str | None) -> None:
    system_file("/proc/self/status", text)
    assert peak_resident_bytes() is None


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    _malloc_trim.cache_clear()
    give_back()
    assert _malloc_trim() is None
    _malloc_trim.cache_clear()
