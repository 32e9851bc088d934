"""Tiles that were measured on a device: `measured_tiles.json`, which goes before the reasoned tables of `tiles.py`.

The file is by compute capability, kernel and size, as in {"9.0": {"linear_w8a8": {"2048x1152x3456": [128, 128, 64, 4, 4, 8]}}}:
m, n, k, warps, stages, group and, if there are any, extra columns of the tile. `python -m benchmarks.gpu_tiles RESULT.json` adds what the GPU suite found.
"""

# M rows (tokens or pixels), N output channels, K input channels

import json
from functools import cache
from pathlib import Path

import torch

from quant.kernels.tiles import PROCESSORS, Tile

FILE = Path(__file__).with_suffix(".json")
Measured = dict[str, dict[str, dict[str, list[int]]]]


def read(path: Path = FILE) -> Measured:
    """Read the file."""
    found: Measured = json.loads(path.read_text(encoding="utf-8"))
    return found


def size_of(M: int, K: int, N: int) -> str:
    """Name sizes that share a tile: M up to the same power of two, the same K and N."""
    return f"{1 << (M - 1).bit_length()}x{K}x{N}"


@cache
def _of_capability(capability: tuple[int, int], file: Path) -> dict[str, dict[str, Tile]]:
    kernels = read(file).get("{}.{}".format(*capability), {})
    return {
        kernel: {
            size: Tile(
                m=m,
                n=n,
                k=k,
                warps=warps,
                stages=stages,
                group=group,
                extra=extra[0] if extra else 0,
            )
            for size, (m, n, k, warps, stages, group, *extra) in sizes.items()
        }
        for kernel, sizes in kernels.items()
    }


def processors_of(device: torch.device) -> int:
    """Return how many multiprocessors run programs at one time."""
    if device.type != "cuda":
        return PROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def capability_of(device: torch.device) -> tuple[int, int] | None:
    """Return the compute capability; None of what is no CUDA device."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def measured_tile(
    kernel: str, device: torch.device, M: int, N: int, K: int, *, file: Path = FILE
) -> Tile | None:
    """The tile that was the fastest on devices of this capability; None where nothing was measured."""
    if device.type != "cuda":
        return None
    sizes = _of_capability(torch.cuda.get_device_capability(device), file).get(kernel)
    return None if sizes is None else sizes.get(size_of(M, K, N))
