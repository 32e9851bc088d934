"""What the C library is told about memory, unless the user has told it."""

import ctypes
import os
from types import SimpleNamespace

import pytest

from sana_cli.system import allocator
from sana_cli.system.allocator import keeping_freed, set_up_allocator

NAMES = ("MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "THP_MEM_ALLOC_ENABLE")  # fmt: skip


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What `mallopt` is called with; this process is not set up yet, and afterwards it is as it was."""
    monkeypatch.setattr(allocator, "_ours", False)
    for name in NAMES:
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    made: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *values: made.append(values))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    return made


def test_a_process_of_our_own(calls: list[tuple[int, int]]) -> None:
    set_up_allocator()
    set_up_allocator()  # the C library is asked once: it may be busy with torch's libraries
    assert sorted(calls) == [(-8, 1), (-3, 2**25), (-1, 2**26)]
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"


def test_a_user_who_has_decided(
    calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    set_up_allocator()
    with keeping_freed():
        pass
    assert sorted(calls) == [(-8, 1), (-3, 2**25)]
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


def test_a_loop_ends_as_it_began(calls: list[tuple[int, int]]) -> None:
    set_up_allocator()
    calls.clear()
    with pytest.raises(RuntimeError), keeping_freed():
        raise RuntimeError
    assert calls == [(-1, 2**27), (-1, 2**26)]


def test_another_c_library(calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    set_up_allocator()
    assert calls == []
