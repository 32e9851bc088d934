"""Kernels compile for devices that are not at hand, without spills, within shared memory, for tensor cores."""

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.kernels_compile import (
    CAPABILITIES,
    HIP,
    Case,
    cases,
    compiled,
    read_rows,
    source_of,
    targets_of,
)

FAST = (
    "quantize_per_token K=1152",
    "layer_norm_modulate D=1152 addend quantize smooth",
    "layer_norm_modulate D=1152 branch addend float8",
    "relu_linear_attention E=32 bf16",
    "cross_attention E=72 product bias",
    "depthwise3x3_glu 16x32 4w bf16 silu",
    "relu_linear_attention E=32 bf16 sums",
    "relu_linear_attention E=32 bf16 attend",
    "rms_norm D=128 bias residual largest",
    "softcap_attention E=256 bf16",
    "quantize_map by largest",
    "quantize_map largest",
    "bias_activation bias silu",
    "join_phases N=128",
    "quantize_per_token K=1152 branch smooth float8",
    "linear_w8a8 128x64x64 4w 4s bias gate residual",
    "linear_w8a8 128x64x64 4w 3s floats residual",
    "conv3x3_w8a8 128x128x64 8w 4s bias silu largest",
    "conv3x3_w8a8 128x128x64 8w 4s bias upsampled shortcut largest",
    "linear_w4a16 64x64 4w 4s g64",
)


@pytest.fixture(autouse=True)
def _compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def fast() -> Iterator[Case]:
    found = {case.name: case for case in cases()}
    return (found[name] for name in FAST)


def test_a_tile_of_each_kernel() -> None:
    for case in fast():
        assert compiled(case, 89)["problems"] == [], case.name


def test_a_kernel_waits_for_the_one_before() -> None:
    """Where launches depend on each other, nothing in the machine code reads before it waits."""
    case = next(case for case in fast() if case.kernel == "quantize_per_token")
    found = compiled(case, 90)
    assert found["waits_first"]
    assert found["problems"] == []
    assert not compiled(case, 89)["waits_first"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_tile(capability: int) -> None:
    for case in cases():
        if capability in targets_of(case).values():
            assert compiled(case, capability)["problems"] == [], case.name


def test_the_table_that_is_kept_is_of_these_kernels() -> None:
    """Each kernel, variant and target, of its source as it is now; only AMD's rows may have problems.

    `python -m benchmarks.kernels_compile` completes it.
    """
    kept = read_rows()
    wanted = {
        (case.kernel, case.variant, name): source_of(case, target)
        for case in cases()
        for name, target in targets_of(case).items()
    }
    assert set(kept) == set(wanted)
    assert [key for key, row in kept.items() if row["source"] != wanted[key]] == []
    assert [key for key, row in kept.items() if row["problems"] and key[2] != HIP] == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"warps": 1}, "registers spill"), ({"stages": 10}, "shared memory does not fit")],
    ids=["sums of 256 registers a thread", "120 KB of operands"],
)
def test_a_tile_that_does_not_fit_is_told(change: dict[str, int], problem: str) -> None:
    case = next(case for case in fast() if case.kernel == "linear_w8a8")
    assert compiled(dataclasses.replace(case, **change), 89)["problems"] == [problem]
