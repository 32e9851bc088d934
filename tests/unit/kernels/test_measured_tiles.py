"""Tiles that were measured go before the tables, on devices of their capability alone; what a suite found can ship."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_tiles import main, merged
from quant.kernels import linear_w8a8
from quant.kernels.measured_tiles import FILE, measured_tile, read, size_of
from quant.kernels.tiles import BROAD, LARGE, LINEAR_W8A8, MEDIUM, Tile, tile_for
from tests.rehearsal.device import Device

WIDE = [128, 256, 64, 8, 4, 8]


def document(best_ms: float, capability: str = "9.0") -> dict[str, Any]:
    row = {
        "kernel": "linear_w8a8", "shape": "2048x1152x3456", "best_tile": WIDE, "best_ms": best_ms, "table_ms": 1.0,
    }  # fmt: skip
    return {
        "items": {
            "facts": {"found": {"capability": capability}}, "tiles": {"found": {"tiles": [row]}},
        }
    }  # fmt: skip


def test_the_file_that_ships_can_be_read() -> None:
    for kernels in read().values():
        for sizes in kernels.values():
            assert all(
                Tile(m=t[0], n=t[1], k=t[2], warps=t[3], stages=t[4], group=t[5])
                for t in sizes.values()
            )
    assert FILE.is_file()


@pytest.mark.parametrize(("best_ms", "ships"), [(0.8, True), (0.99, False)])
def test_a_faster_tile_ships_and_noise_does_not(
    tmp_path: Path, best_ms: float, ships: bool
) -> None:
    known = {
        "8.9": {"linear_w8a8": {"64x64x64": WIDE}},
        "9.0": {"linear_w8a8": {"2048x1152x3456": [1] * 6}},
    }
    found = merged(known, document(best_ms))
    assert found["8.9"] == known["8.9"]
    assert found["9.0"]["linear_w8a8"] == ({"2048x1152x3456": WIDE} if ships else {})
    result, target = tmp_path / "gpu.json", tmp_path / "tiles.json"
    result.write_text(json.dumps(document(best_ms)))
    target.write_text("{}")
    main(result, target)
    assert read(target) == {"9.0": {"linear_w8a8": found["9.0"]["linear_w8a8"]}}


def test_sizes_share_a_tile_up_to_a_power_of_two() -> None:
    assert size_of(2048, 1152, 3456) == size_of(1025, 1152, 3456) == "2048x1152x3456"
    assert size_of(2049, 1152, 3456) == "4096x1152x3456"


@pytest.mark.parametrize(
    "gpu", [{"capability": (9, 0)}, {"capability": (8, 9)}], indirect=True, ids=str
)
def test_only_devices_of_its_capability_use_it(gpu: Device, tmp_path: Path) -> None:
    file = tmp_path / "tiles.json"
    file.write_text(json.dumps({"9.0": {"linear_w8a8": {size_of(32, 64, 64): WIDE}}}))
    found = measured_tile("linear_w8a8", torch.device("cuda"), 32, 64, 64, file=file)
    assert (found is not None) == (gpu.capability == (9, 0))
    assert found is None or (found.m, found.n, found.warps) == (128, 256, 8)
    assert measured_tile("linear_w8a8", torch.device("cpu"), 32, 64, 64, file=file) is None
    assert measured_tile("conv3x3_w8a8", torch.device("cuda"), 32, 64, 64, file=file) is None


def test_without_a_measurement_the_tables_decide(gpu: Device) -> None:
    q = torch.ones(32, 64, dtype=torch.int8, device="cuda")
    ones = torch.ones(64, device="cuda")
    assert measured_tile("linear_w8a8", q.device, 32, 64, 63) is None
    out = linear_w8a8.linear_w8a8(q, ones[:32], torch.ones_like(q[:1]).expand(64, 64).contiguous(), ones, out_dtype=torch.float32)  # fmt: skip
    assert out.eq(64).all()


def test_extra_columns_can_ship(gpu: Device, tmp_path: Path) -> None:
    file = tmp_path / "tiles.json"
    sizes = {size_of(32, 64, 64): [128, 128, 64, 8, 4, 8, 16]}
    file.write_text(json.dumps({"8.9": {"linear_w8a8": sizes}}))
    assert measured_tile("linear_w8a8", torch.device("cuda"), 32, 64, 64, file=file) == BROAD


@pytest.mark.parametrize(
    ("M", "N", "processors", "chosen"),
    [
        (2048, 1152, 128, BROAD),  # one round; 144 or 288 programs would be two or three
        (2048, 3456, 128, BROAD),
        (2048, 5760, 128, BROAD),
        (2048, 1152, 76, MEDIUM),  # four rounds of small tiles are less than two of large ones
        (16384, 512, 128, LARGE),  # a multiple of 128 columns
    ],
)
def test_the_tile_leaves_the_fewest_programs_for_a_last_round(
    M: int, N: int, processors: int, chosen: Tile
) -> None:
    assert tile_for(LINEAR_W8A8, M, N, 1152, processors=processors) == chosen
