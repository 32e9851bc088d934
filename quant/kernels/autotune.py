"""Measure tiles on the device at hand, for sizes where the tables of `tiles.py` may be wrong.

Nothing is remembered: the caller keeps the tile and passes it to the kernel.
"""

from collections.abc import Callable, Iterable

from quant.kernels.tiles import Tile


def rank(run: Callable[[Tile], object], candidates: Iterable[Tile]) -> list[tuple[Tile, float]]:
    """Tiles and the median milliseconds of run(tile), fastest first; those that do not fit are left out.

    `run` calls a kernel on a CUDA device, as in `lambda tile: linear_w8a8(*tensors, tile=tile)`.
    """
    from triton.errors import TritonError
    from triton.testing import do_bench

    times = []
    for tile in candidates:
        try:
            run(tile)
        except (TritonError, RuntimeError):
            continue  # a device with less shared memory, or a compiler that fails
        times.append((tile, float(do_bench(lambda tile=tile: run(tile), return_mode="median"))))
    return sorted(times, key=lambda entry: entry[1])
