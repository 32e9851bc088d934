"""Memory of this process, as the kernel counts it."""

import sys

import pytest

from sana_cli.system import resident
from sana_cli.system.resident import give_back, peak_resident_bytes, resident_bytes

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
MIB = 2**20


@linux
def test_memory_that_is_held_is_counted() -> None:
    before = resident_bytes()
    held = bytearray(64 * MIB)
    held[::4096] = b"x" * len(held[::4096])
    assert resident_bytes() - before > 60 * MIB
    peak = peak_resident_bytes()
    assert peak is not None
    assert peak >= resident_bytes() - MIB
    del held
    give_back()
    assert resident_bytes() - before < 32 * MIB


def test_the_kernel_counts_in_kibibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Name:\tsana\nVmHWM:\t    7 kB\nVmRSS:\t    5 kB\n"
    monkeypatch.setattr(resident.Path, "read_text", lambda *_, **__: text)
    assert (resident_bytes(), peak_resident_bytes()) == (5 * 1024, 7 * 1024)


def test_a_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(resident.Path, "read_text", refuse)
    assert (resident_bytes(), peak_resident_bytes()) == (0, None)


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "_malloc_trim", lambda: None)
    give_back()
