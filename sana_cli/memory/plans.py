"""How a picture is decoded: whole or in pieces, and what that takes."""

# H W pixels, C channels

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import torch

from sana_cli.config import DCAEConfig
from sana_cli.options import BLENDED_TILE, EXACT_TILE, SMALLEST_RETRY, DecodeMode

_MARGIN = 0.9  # of the free memory: estimates are simple, and others allocate too
_TILES_PER_STRIP = 4  # a strip may hold as many pixels as so many tiles, at about the same cost

# Maps that live at the same time at the widest point of a block, in maps of its input.
_RES_BLOCK_MAPS = 4
_EFFICIENT_VIT_MAPS = 18
_KERNEL_COPIES = 7  # of the largest weights in the orders that kernels want, and other workspace
_PICTURE_MAPS = 3  # the picture, and copies while it is checked and converted


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePlan:
    """One way to decode; `tile` and `strip` in pixels."""

    mode: Literal["whole", "exact-tiles", "blended-tiles"] = "whole"
    tile: int = 0
    strip: int | None = None  # rows of the first stages at a time; None: all

    def __str__(self) -> str:
        return self.mode if self.mode == "whole" else f"{self.mode} {self.tile}"

    def smaller(self, height: int, width: int) -> "DecodePlan | None":
        """What to try when this one ran out of memory; None when nothing is left to try."""
        if self.mode == "exact-tiles":
            tile = self.tile // 2 // 32 * 32
        else:
            tile = min(EXACT_TILE, max(height, width) // 2 // 32 * 32)
            tile = max(tile, SMALLEST_RETRY)
        return exact_tiles(tile, height, width) if tile >= SMALLEST_RETRY else None


WHOLE = DecodePlan()


def exact_tiles(tile: int, height: int, width: int) -> DecodePlan:
    """Exact tiles, with strips where the first stages would take more memory than a tile."""
    rows = _TILES_PER_STRIP * tile * tile // width // 32 * 32
    strip = max(32, rows)
    return DecodePlan(mode="exact-tiles", tile=tile, strip=strip if strip < height else None)


def plan_decode(
    mode: DecodeMode,
    tile: int | None,
    config: DCAEConfig,
    *,
    height: int,
    width: int,
    itemsize: int,
    free: int | None,
) -> DecodePlan:
    """The plan that was asked for. "auto": whole, or exact tiles where that would not fit into `free` bytes."""
    if mode == "blended-tiles":
        return DecodePlan(mode=mode, tile=tile or BLENDED_TILE)
    if mode == "exact-tiles":
        return exact_tiles(tile or EXACT_TILE, height, width)
    if mode == "whole" or free is None:
        return WHOLE
    if activation_bytes(config, WHOLE, height, width, itemsize) <= _MARGIN * free:
        return WHOLE
    plan = exact_tiles(EXACT_TILE, height, width)
    while activation_bytes(config, plan, height, width, itemsize) > _MARGIN * free:
        smaller = plan.smaller(height, width)
        if smaller is None:
            break
        plan = smaller
    return plan


def activation_bytes(
    config: DCAEConfig, plan: DecodePlan, height: int, width: int, itemsize: int
) -> int:
    """About what decoding takes beside the weights, from shapes alone."""
    channels, last = config.decoder_block_out_channels, len(config.decoder_block_out_channels)
    attends = [i for i, kind in enumerate(config.decoder_stage_types) if kind != "ResBlock"]
    split = min(attends, default=last)  # stages below are tiled
    picture = height * width
    tiled = first = min(plan.tile or height, height) * min(plan.tile or width, width)
    if plan.mode == "exact-tiles":
        first = width * min(plan.strip or height, height)
    peaks = [_EFFICIENT_VIT_MAPS * channels[i] * first // 4**i for i in range(split, last)]
    peaks += [_RES_BLOCK_MAPS * channels[i] * tiled // 4**i for i in range(split)]
    resident = _PICTURE_MAPS * config.in_channels * picture
    if plan.mode == "exact-tiles" and split < last:  # a whole map, and the one made from it
        resident += 2 * channels[split] * picture // 4**split
    kernels = _KERNEL_COPIES * 9 * max(channels) ** 2
    return (max(peaks) + resident + kernels) * itemsize


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free for allocation now; None where the system does not tell."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type != "cpu":
        return None
    known = [value for value in (_system_free(), _container_free()) if value is not None]
    return min(known, default=None)


def _system_free() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return prod(os.sysconf(name) for name in ("SC_AVPHYS_PAGES", "SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # no such call, or no such name
        return None


def _container_free(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves, without the cache that the kernel would give back."""
    try:
        limit = int((root / "memory.max").read_text(encoding="ascii"))  # "max": no number, no limit
        used = int((root / "memory.current").read_text(encoding="ascii"))
        stat = dict(
            line.split() for line in (root / "memory.stat").read_text(encoding="ascii").splitlines()
        )
        return limit - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return None
