"""How much memory there is, and how it is written."""

import mmap
from pathlib import Path

import pytest
import torch

from sana_cli.errors import ExitCode, SanaError
from sana_cli.memory import budget
from sana_cli.memory.budget import free_bytes
from sana_cli.options import parse_bytes
from sana_cli.resident import peak_resident_bytes, resident_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GiB", 4 * 2**30),
        ("4 gib", 4 * 2**30),
        ("1.5g", 1_500_000_000),
        ("2GB", 2 * 10**9),
        ("800MiB", 800 * 2**20),
        ("2000000000", 2 * 10**9),
    ],
)
def test_amounts(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", "4", "much", "-4GiB", "4GiBs", "1e9", "2000TiB", "9999999GiB"]
)
def test_no_amounts(text: str) -> None:
    with pytest.raises(SanaError, match="amount of memory") as caught:
        parse_bytes(text)
    assert caught.value.code == ExitCode.USAGE


@pytest.mark.skipif(resident_bytes() == 0, reason="the system does not tell")
def test_own_memory() -> None:
    before, size = resident_bytes(), 50 * 2**20
    with mmap.mmap(-1, size) as block:  # not from an allocator, which may have kept freed memory
        block.write(b"x" * size)
        assert resident_bytes() - before >= 0.9 * size
    assert (peak_resident_bytes() or 0) >= resident_bytes()


def test_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = free_bytes(torch.device("cpu"))
    assert found is not None
    assert 0 < found < 2**50
    assert free_bytes(torch.device("meta")) is None, "nothing to ask"
    monkeypatch.setattr(budget, "_container_free", lambda: 5)
    assert free_bytes(torch.device("cpu")) == 5


@pytest.mark.parametrize(("limit", "expected"), [("1000", 1000 - 700 + 200), ("max", None)])
def test_containers(tmp_path: Path, limit: str, expected: int | None) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    assert budget._container_free(tmp_path) == expected
    assert budget._container_free(tmp_path / "none") is None
