"""Choose the tile that one program computes: tables by size, first match wins. Data only.

The tables are reasoned, for 99 KB of shared memory and about 128 multiprocessors, and not yet
measured on a device. Tiles of at most 48 KB let two programs share a multiprocessor, so that one
computes while the other stores; only the registers of LARGE leave no room for a second. Narrow
tiles are used where wide ones would leave multiprocessors idle. `autotune.py` measures.
"""

# M rows (tokens or pixels), N output channels, K input channels

from collections.abc import Sequence
from dataclasses import dataclass, replace

PROCESSORS = 128  # of the device that the tables are reasoned for


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Rows and columns of one program's output, the depth of one step, and how it runs."""

    m: int
    n: int
    k: int  # 0 where a step is a group of the weight
    warps: int
    stages: int  # steps that are loaded ahead
    group: int = 8  # rows of tiles walked together, so that their weights are read from L2
    extra: int = 0  # columns next to `n`, which is a power of two; linear_w8a8 alone takes them

    @property
    def width(self) -> int:
        """All columns."""
        return self.n + self.extra

    def programs(self, M: int, N: int) -> int:
        """Return how many programs compute M rows and N columns."""
        return -(-M // self.m) * -(-N // self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The tile for products of at most this size."""

    tile: Tile
    other: Tile | None = None  # where its rounds of programs compute fewer values
    max_m: int | None = None  # None: any
    max_n: int | None = None
    max_k: int | None = None
    capability: tuple[int, int] | None = None  # of the only devices that it is for; None: any


NARROW = Tile(m=32, n=64, k=128, warps=4, stages=4)
SMALL = Tile(m=64, n=64, k=128, warps=4, stages=3)
MEDIUM = Tile(m=128, n=64, k=64, warps=4, stages=4)
LARGE = Tile(m=128, n=128, k=64, warps=8, stages=4)
# Powers of two leave a last round of few programs: 2048 x 1152 are 144 tiles of LARGE, but 128 of these.
BROAD = Tile(m=128, n=128, k=64, warps=8, stages=4, extra=16)
# For tensor cores that are faster than L2 can feed by tiles of 128 x 128: each of its values is used 170 times, for 128.
WIDE = Tile(m=256, n=128, k=64, warps=8, stages=3)

# Measuring tries these for int8 products: the tables' tiles and a deeper one, with fewer steps; its depth
# does not divide 2240 or 2880 channels. 128 x 128 with 4 warps, which would leave room for a second program, spills
# registers on 8.6 and 8.9 (8 bytes, bias and SiLU), as 128 x 256 did on 9.0.
INT8_CANDIDATES = (
    NARROW,
    SMALL,
    MEDIUM,
    LARGE,
    Tile(m=128, n=128, k=128, warps=8, stages=3),
)
LINEAR_CANDIDATES = (*INT8_CANDIDATES, BROAD)

LINEAR_W8A8 = (
    Rule(max_m=128, tile=NARROW),
    Rule(max_m=1024, max_n=2304, tile=SMALL),  # 512 px: 1152 columns are 144 to 288 tiles
    Rule(max_m=1024, tile=MEDIUM),
    Rule(max_k=64, tile=MEDIUM),  # one step: nothing to load ahead, all is storing
    Rule(max_m=4096, max_n=2304, tile=MEDIUM, other=BROAD),  # 1024 px: 288 tiles, or 128
    Rule(tile=LARGE, other=BROAD),
)

# Inputs of 16 bits take twice the room of int8 ones, and their integers some more: fewer steps ahead leave room for
# two programs, and for inputs of 32 bits.
LINEAR_W8A8_ON_LOAD = (
    Rule(max_m=128, tile=replace(NARROW, stages=3)),
    Rule(max_m=1024, max_n=2304, tile=replace(SMALL, k=64, stages=4)),
    Rule(max_m=4096, max_n=2304, tile=replace(MEDIUM, stages=3)),
    Rule(tile=replace(LARGE, stages=3)),
)

# A step covers 64 or 128 channels of one tap, so k divides the widths of DC-AE.
CONV3X3_W8A8 = (
    Rule(max_m=1024, tile=SMALL),
    Rule(max_m=4096, tile=MEDIUM),
    Rule(max_n=64, tile=MEDIUM),
    Rule(max_m=16384, tile=LARGE),
    Rule(tile=WIDE, capability=(9, 0)),
    Rule(tile=LARGE),
)

# Up to a few hundred rows the time is that of reading weights: small
# tiles in n put enough programs on the device to draw its whole bandwidth.
LINEAR_W4A16 = (
    Rule(max_m=16, max_n=4096, tile=Tile(m=16, n=32, k=0, warps=2, stages=5)),
    Rule(max_m=16, tile=Tile(m=16, n=64, k=0, warps=4, stages=5)),
    Rule(max_m=64, max_n=4096, tile=Tile(m=64, n=32, k=0, warps=4, stages=4)),
    Rule(max_m=64, tile=Tile(m=64, n=64, k=0, warps=4, stages=4)),
    Rule(tile=Tile(m=64, n=128, k=0, warps=8, stages=3)),
)


def tiles_of(table: Sequence[Rule]) -> tuple[Tile, ...]:
    """Every tile of a table, once."""
    return tuple(
        dict.fromkeys(
            tile for rule in table for tile in (rule.tile, rule.other) if tile is not None
        )
    )


def tile_for(
    table: Sequence[Rule],
    M: int,
    N: int,
    K: int,
    *,
    processors: int = PROCESSORS,
    capability: tuple[int, int] | None = None,
) -> Tile:
    """The tile of the first rule whose limits hold, for so many multiprocessors; a table's last rule has no limits."""
    rule = next(
        rule for rule in table if _holds(rule, M, N, K) and rule.capability in (None, capability)
    )

    def values(tile: Tile) -> int:
        """Computed by the multiprocessor that has the most to do."""
        return -(-tile.programs(M, N) // processors) * tile.m * tile.width

    return min(filter(None, (rule.other, rule.tile)), key=values)


def _holds(rule: Rule, M: int, N: int, K: int) -> bool:
    limits = ((rule.max_m, M), (rule.max_n, N), (rule.max_k, K))
    return all(limit is None or size <= limit for limit, size in limits)
