"""Which way to decode is chosen, and what it is thought to take."""

from pathlib import Path

import pytest
import torch

from sana_cli.config import DCAEConfig
from sana_cli.memory import plans
from sana_cli.memory.plans import (
    WHOLE,
    DecodePlan,
    activation_bytes,
    exact_tiles,
    free_bytes,
    plan_decode,
)
from sana_cli.options import Decode, DecodeMode

PUBLISHED = DCAEConfig()
GIB = 2**30


def plan(
    mode: DecodeMode, *, side: int, free: float | None = None, tile: int | None = None
) -> DecodePlan:
    room = None if free is None else int(free * GIB)
    return plan_decode(mode, tile, PUBLISHED, height=side, width=side, itemsize=4, free=room)


@pytest.mark.parametrize(
    ("side", "free", "expected"),
    [
        (1024, 16, "whole"),
        (1024, None, "whole"),
        (1024, 1.5, "exact-tiles 512"),
        (4096, 64, "whole"),
        (4096, 8, "exact-tiles 512"),
        (1024, 0.6, "exact-tiles 256"),
        (1024, 0.01, "exact-tiles 128"),
    ],
)
def test_auto(side: int, free: float | None, expected: str) -> None:
    assert str(plan("auto", side=side, free=free)) == expected


def test_what_was_asked_for() -> None:
    assert plan("whole", side=4096, free=0.1) == WHOLE
    assert str(plan("exact-tiles", side=1024)) == "exact-tiles 512"
    assert str(plan("exact-tiles", side=1024, tile=96)) == "exact-tiles 96"
    assert str(plan("blended-tiles", side=1024)) == "blended-tiles 1024"
    assert str(plan("blended-tiles", side=1024, tile=64)) == "blended-tiles 64"
    assert {mode.value for mode in Decode} == {
        "auto", "whole", "exact-tiles", "blended-tiles",
    }  # fmt: skip


def test_strips_where_the_first_stages_are_the_larger_part() -> None:
    assert exact_tiles(512, 1024, 1024).strip is None
    assert exact_tiles(512, 2048, 2048).strip == 512
    assert exact_tiles(32, 4096, 4096).strip == 32, "at least a position"


def test_smaller_and_smaller() -> None:
    tried = [WHOLE]
    while (smaller := tried[-1].smaller(4096, 4096)) is not None:
        tried.append(smaller)
    assert [p.tile for p in tried] == [0, 512, 256, 128]
    assert WHOLE.smaller(64, 64) == exact_tiles(128, 64, 64)
    blended = plan("blended-tiles", side=1024).smaller(1024, 1024)
    assert blended is not None
    assert str(blended) == "exact-tiles 512"


def test_prediction() -> None:
    """Measured on a CPU in fp32: 2.2 GiB whole at 1024 x 1024 (`benchmarks/results/decode.json`)."""
    whole = activation_bytes(PUBLISHED, WHOLE, 1024, 1024, 4)
    assert whole == pytest.approx(2.2 * GIB, rel=0.3)
    sizes = [
        activation_bytes(PUBLISHED, p, 1024, 1024, 4)
        for p in (WHOLE, *(exact_tiles(tile, 1024, 1024) for tile in (512, 256, 128)))
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert activation_bytes(PUBLISHED, WHOLE, 1024, 1024, 2) == whole // 2


def test_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = free_bytes(torch.device("cpu"))
    assert found is not None
    assert 0 < found < 2**50
    assert free_bytes(torch.device("meta")) is None, "nothing to ask"
    monkeypatch.setattr(plans, "_container_free", lambda: 5)
    assert free_bytes(torch.device("cpu")) == 5


@pytest.mark.parametrize(("limit", "expected"), [("1000", 1000 - 700 + 200), ("max", None)])
def test_containers(tmp_path: Path, limit: str, expected: int | None) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    assert plans._container_free(tmp_path) == expected
    assert plans._container_free(tmp_path / "none") is None
