"""Estimate one launch on a GPU that is not at hand, from its operations, bytes, tile and number of programs. NOTHING IS MEASURED."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.gpu_launches import WAITING, Launch
from quant.kernels.dependent import FIRST_CAPABILITY
from quant.kernels.tiles import CONV3X3_W8A8, LINEAR_W8A8, tile_for
from sana_cli.bench.devices import DEVICES

_FEW_ROWS = 64  # with so few a product takes as long as its weights, which no cache holds
GAP_S = 1.2e-6  # between two nodes of a graph
HIDDEN_S = 0.8e-6  # of a gap, where the second is launched while the first ends
_FILL_S = 2.2e-6  # first loads, last stores
PASS_S = 1.5e-6  # of a kernel that only moves
ISSUE_S = 6e-6  # of an operation that Python issues
WAIT_S = 15e-6  # until a host that waited issues again


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Rates that no data sheet has. Shares are those that such kernels mostly reach."""

    processors: int
    l2: float  # bytes a second
    l2_bytes: float
    fp8: float  # operations a second, fp32 sums; 0: none
    library: float  # cuBLAS' share of the peak, large products
    conv: float  # cuDNN's
    loop: float  # a loop of ours that is bound by tensor cores
    capability: tuple[int, int]


_AMPERE = {"library": 0.78, "conv": 0.70, "loop": 0.85}
_ADA = {"library": 0.78, "conv": 0.72, "loop": 0.88}
_HOPPER = {"library": 0.65, "conv": 0.50, "loop": 0.70}
RATES = {
    "rtx-3060": Rates(capability=(8, 6), processors=28, l2=1.1e12, l2_bytes=3e6, fp8=0, **_AMPERE),
    "rtx-4090-laptop": Rates(
        capability=(8, 9), processors=76, l2=2.3e12, l2_bytes=64e6, fp8=159e12, **_ADA
    ),
    "rtx-4090": Rates(
        capability=(8, 9), processors=128, l2=4.8e12, l2_bytes=72e6, fp8=330e12, **_ADA
    ),
    "rtx-5090": Rates(
        capability=(12, 0), processors=170, l2=7.0e12, l2_bytes=96e6, fp8=419e12, **_ADA
    ),
    "h100": Rates(
        capability=(9, 0), processors=132, l2=5.6e12, l2_bytes=50e6, fp8=1979e12, **_HOPPER
    ),
    "h200": Rates(
        capability=(9, 0), processors=132, l2=5.6e12, l2_bytes=50e6, fp8=1979e12, **_HOPPER
    ),
}


def seconds(launch: Launch, device: str) -> float:
    """Estimate one of these launches on a device, the gap to the next included."""
    estimate = {
        "tiles": _tiles, "library": _library, "conv": _conv, "attention": _attention,
        "text attention": _text_attention, "pass": _pass,
    }[launch.kind]  # fmt: skip
    return estimate(launch, device)


def _peak(arithmetic: str, device: str) -> float:
    sheet, rates = DEVICES[device], RATES[device]
    known = {"int8": sheet.int8, "bf16": sheet.bf16, "fp32": sheet.fp32, "fp8": rates.fp8}
    return known[arithmetic]


def _memory(device: str) -> float:
    return DEVICES[device].bandwidth * 0.92


def _tiles(launch: Launch, device: str) -> float:
    """Rounds of tiles; each as long as its operations, or as its bytes through L2.

    The last round, where few programs run, has more of L2 for each. Where floats are quantized, loading measures whether a
    quantizer of its own is faster, and so does this.
    """
    if "on_load" in launch.name:
        return min(_tile_rounds(launch, device), _apart(launch, device))
    return _tile_rounds(launch, device)


def with_tile_of(launch: Launch, device: str) -> Launch:
    """Return a launch with the tile for the device, which the list of launches does not know."""
    (M, K, N), rates = launch.shape if len(launch.shape) == 3 else (0, 0, 0), RATES[device]
    if launch.name == "linear_w8a8":
        tile = tile_for(LINEAR_W8A8, M, N, K, processors=rates.processors)
    elif launch.name == "conv3x3_w8a8":
        tile = tile_for(CONV3X3_W8A8, M, N, K // 9, capability=rates.capability)
    else:
        return launch
    return replace(
        launch, tile=(tile.m, tile.width, tile.k, tile.warps, tile.stages),
        programs=tile.programs(M, N),
    )  # fmt: skip


def _apart(launch: Launch, device: str) -> float:
    """A quantizer, and a product of integers."""
    M, K, _ = launch.shape
    product = with_tile_of(replace(launch, name="linear_w8a8"), device)
    quantizer = Launch(name="quantize_per_token", kind="pass", bytes=3 * M * K)
    return _tile_rounds(product, device) + _pass(quantizer, device)


def _tile_rounds(launch: Launch, device: str) -> float:
    rates = RATES[device]
    m, n = launch.tile[:2]
    _, K, _ = launch.shape
    on_load = "on_load" in launch.name
    rate = _peak(launch.arithmetic, device) / rates.processors * rates.loop
    compute = 2 * m * n * K / (rate * (0.45 if on_load else 1))
    through_l2 = (m * (2 if on_load else 1) + n) * K / (rates.l2 / rates.processors)
    whole, rest = divmod(launch.programs, rates.processors)
    last = max(compute, through_l2 * rest / rates.processors) if rest else 0
    busy = whole * max(compute, through_l2) + last
    return max(busy + _FILL_S, _moving(launch, device)) + GAP_S


def _moving(launch: Launch, device: str) -> float:
    """Return the bytes of tensors that the kernel before and the one after leave in L2, where they fit."""
    share = 0.4 if launch.bytes < RATES[device].l2_bytes * 0.8 else 1
    return launch.bytes * share / _memory(device)


def _library(launch: Launch, device: str) -> float:
    rates = RATES[device]
    M, _, N = launch.shape
    waves = math.ceil(M / 128) * math.ceil(N / 128) / rates.processors
    used = waves / math.ceil(waves) if waves > 1 else max(waves, 0.35)
    rate = _peak(launch.arithmetic, device) * rates.library * min(1, used * 1.12)
    moving = launch.bytes / _memory(device) if M <= _FEW_ROWS else _moving(launch, device)
    return max(launch.ops / rate, moving) + 2e-6 + GAP_S


def _conv(launch: Launch, device: str) -> float:
    rate = _peak(launch.arithmetic, device) * RATES[device].conv
    return launch.ops / rate + launch.bytes * 0.1 / _memory(device) + 3e-6


def _attention(launch: Launch, device: str) -> float:
    """Rounds of loads that wait for each other, two programs on a multiprocessor."""
    waves = math.ceil(launch.programs / RATES[device].processors / 2)
    return max(launch.rounds * 0.75e-6 * waves, _moving(launch, device)) + 2e-6 + GAP_S


def _text_attention(launch: Launch, device: str) -> float:
    """Programs of 64 tokens and a head, two on a multiprocessor; with the queries' product, or without it."""
    rates = RATES[device]
    _, K, _ = launch.shape
    waves = math.ceil(launch.programs / rates.processors / 2)
    if launch.name == "cross_attention":
        return max(waves * 1.5 * 1.0e-6, _moving(launch, device)) + 2e-6 + GAP_S
    rate = DEVICES[device].int8 / rates.processors
    through_l2 = (64 * 2 + 80) * K / (rates.l2 / rates.processors)
    one = max(64 * K * 80 * 2 / (rate * 0.25), through_l2) + 1e-6
    return waves * 1.5 * one + 2e-6 + GAP_S


def _pass(launch: Launch, device: str) -> float:
    rates = RATES[device]
    in_l2 = launch.bytes < rates.l2_bytes * 0.8
    rate = rates.l2 * 0.6 if in_l2 else _memory(device) * 0.92
    # They read or write by channel.
    if launch.name in ("repeat_interleave", "pixel_shuffle", "clone"):
        rate *= 0.4
    return launch.bytes / rate + PASS_S + GAP_S


def total(
    launches: Sequence[Launch], device: str, *, issued: bool = False, dependent: bool = False
) -> float:
    """Seconds of all. `issued`: by Python one by one, so that the host may be the slower one. `dependent`: of a graph, with
    dependent launches where the device has them.
    """
    count = sum(launch.count for launch in launches)
    busy = sum(launch.count * seconds(launch, device) for launch in launches)
    if dependent and RATES[device].capability >= FIRST_CAPABILITY:
        busy -= HIDDEN_S * sum(launch.count for launch in launches if launch.name in WAITING)
    return max(busy, count * ISSUE_S) if issued else busy
