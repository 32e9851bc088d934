"""3x3 convolutions of fp32 maps by Winograd's algorithm: 36 products for 144 (arXiv 1509.09308, F(4x4, 3x3)). For CPUs.

A tile of 6x6 inputs and the kernel are each transformed by small constant matrices, so that 4x4 outputs become products
position by position: 36 matrix products of tiles by channels. The rest are additions, done for a few rows at a time, which stay in
the cores' caches. Results differ from the direct sum by rounding: about 1e-5 where values are about 1.
"""

# B pictures, K input channels, N output channels, H W positions, R rows and C columns of tiles in a strip

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

Values = Tensor | Sequence[Tensor]  # some of one axis

TILE = 4  # outputs of a tile, along each axis
_SIDE = TILE + 2  # its inputs, and the positions at which products are made
# Tiles that a thread transforms at once: fewer make products slow, more leave the cores' caches.
_TILES = 64
_MOST_THREADS = 16  # that memory is taken for

# Rows of the kernel's transform, G of the paper.
_KERNEL = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip

_LEAST_CHANNELS = 128  # with fewer, the additions take most of the time that products save
# Positions of a map for each output channel: fewer do not make up for transforming the kernel.
_LEAST_POSITIONS = 16


def suits(weight: Tensor) -> bool:
    """Return whether a kernel (N, K, k, k) is one of 3x3, wide enough, with its values here."""
    N, K, *sides = weight.shape
    return sides == [3, 3] and min(N, K) >= _LEAST_CHANNELS and not weight.is_meta


def pays(x: Tensor, outputs: int) -> bool:
    """Return whether a map (B, K, H, W) is large enough, of fp32 values, and nobody wants gradients."""
    large = x.shape[-2] * x.shape[-1] >= _LEAST_POSITIONS * outputs
    return large and x.dtype == torch.float32 and not torch.is_grad_enabled()


@cache
def _kernel_matrix() -> Tensor:
    """Both axes of the kernel's transform in one matrix (36, 9)."""
    rows = torch.tensor(_KERNEL, dtype=torch.float64)
    return torch.kron(rows, rows).float()


def transformed(weight: Tensor) -> Tensor:
    """An fp32 kernel (N, K, 3, 3) as factors of the products, (36, K, N)."""
    N, K = weight.shape[:2]
    return (_kernel_matrix() @ weight.permute(2, 3, 1, 0).reshape(9, K * N)).view(-1, K, N)


def winograd_conv(x: Tensor, weight: Tensor, bias: Tensor | None, *, tiles: int = _TILES) -> Tensor:
    """Convolve fp32 x (B, K, H, W) by (N, K, 3, 3) with stride 1 and padding 1 -> (B, N, H, W), channels last.

    Takes memory for the transformed kernel (four times the kernel's) and for `tiles` tiles a thread.
    """
    B, K, H, W = x.shape
    factors = transformed(weight)
    out = torch.empty((B, H, W, len(weight)), dtype=x.dtype)
    columns = -(-W // TILE)
    rows = _rows_at_once(-(-H // TILE), columns, tiles)
    room = _Strip(K, len(weight), rows, columns)
    for picture, target in zip(x.permute(0, 2, 3, 1), out, strict=True):
        for top in range(0, H, TILE * rows):
            room.run(picture, target, top, factors, bias)
    return out.permute(0, 3, 1, 2)


def _rows_at_once(rows: int, columns: int, tiles: int) -> int:
    """Return how many of `rows` rows of tiles are done at once, for so many tiles a thread."""
    return min(rows, max(1, tiles * min(torch.get_num_threads(), _MOST_THREADS) // columns))


class _Strip:
    """The memory of R rows of C tiles, used again for all strips of a map."""

    def __init__(self, K: int, N: int, R: int, C: int) -> None:
        self._padded = torch.empty(TILE * R + 2, TILE * C + 2, K)
        self._by_rows = torch.empty(_SIDE, R, TILE * C + 2, K)
        self._inputs = torch.empty(_SIDE, _SIDE, R, C, K)
        self._products = torch.empty(_SIDE, _SIDE, R, C, N)
        self._half = torch.empty(TILE, _SIDE, R, C, N)
        self._overhanging = torch.empty(0)  # outputs where tiles end beyond the map

    def run(self, x: Tensor, out: Tensor, top: int, factors: Tensor, bias: Tensor | None) -> None:
        """Write rows of out (H, W, N) from `top` on, as many as fit in, from x (H, W, K)."""
        _, _, R, C, _ = self._inputs.shape
        _fill_padded(self._padded, x, top)
        rows = [self._padded[i : i + TILE * R - 3 : TILE] for i in range(_SIDE)]
        _transform_inputs(rows, self._by_rows)
        columns = [self._by_rows[:, :, i : i + TILE * C - 3 : TILE] for i in range(_SIDE)]
        _transform_inputs(columns, self._inputs.unbind(1))
        products = self._products.view(len(factors), R * C, -1)
        torch.bmm(self._inputs.view(len(factors), R * C, -1), factors, out=products)
        if bias is not None:
            self._products[1, 1].add_(bias)  # this product is in every output, once
        _transform_outputs(self._products, self._half)
        target = out[top : top + TILE * R]
        is_whole = target.shape[:2] == (TILE * R, TILE * C)
        if not is_whole and not self._overhanging.numel():
            self._overhanging = out.new_empty(TILE * R, TILE * C, out.shape[2])
        tiles = target if is_whole else self._overhanging
        by_place = tiles.view(R, TILE, C, TILE, -1).permute(3, 1, 0, 2, 4)
        _transform_outputs(self._half.unbind(1), by_place)
        if not is_whole:
            target.copy_(tiles[: target.shape[0], : target.shape[1]])


def _fill_padded(padded: Tensor, x: Tensor, top: int) -> None:
    """Copy rows of x (H, W, K) from the one before `top` on, and one column in; zeros where there is nothing."""
    first, last = max(top - 1, 0), min(top - 1 + len(padded), len(x))
    begin = first - (top - 1)
    padded.zero_()
    padded[begin : begin + last - first, 1 : x.shape[1] + 1] = x[first:last]


def _transform_inputs(d: Values, out: Values) -> None:
    """The inputs' transform, B of the paper, along one axis: six tensors from six."""
    even, odd = torch.sub(d[4], d[2], out=out[1]), torch.sub(d[3], d[1], out=out[2])
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])
    torch.add(even, torch.sub(d[0], d[2], out=out[0]), alpha=4, out=out[0])
    torch.sub(d[5], d[3], out=out[5]).sub_(odd, alpha=4)
    torch.sub(d[4], d[2], alpha=4, out=out[1])
    torch.sub(d[3], d[1], alpha=4, out=out[2])
    out[1].add_(out[2])
    torch.sub(out[1], out[2], alpha=2, out=out[2])


def _transform_outputs(m: Values, out: Values) -> None:
    """The products' transform, A of the paper, along one axis: four tensors from six, which it overwrites."""
    for first, second in ((m[1], m[2]), (m[3], m[4])):  # become their sum and their difference
        first.add_(second)
        torch.sub(first, second, alpha=2, out=second)
    torch.add(m[1], m[3], alpha=4, out=out[2])
    torch.add(m[1].add_(m[3]), m[0], out=out[0])
    torch.add(m[2], m[4], alpha=2, out=out[1])
    torch.add(m[2].add_(m[4], alpha=8), m[5], out=out[3])


# -- after up-sampling -----------------------------------------------------------------------------

# Factors by where an output lies between two equal inputs: the first tap, all taps, the last tap.
_TAPS = ((1.0, 0, 0), (1, 1, 1), (0, 0, 1))


@cache
def _taps_matrix() -> Tensor:
    rows = torch.tensor(_TAPS)
    return torch.kron(rows, rows)


def upsampled_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, tiles: int = _TILES
) -> Tensor:
    """Nearest x2, then a 3x3 convolution with padding 1: fp32 (B, K, H, W) -> (B, N, 2H, 2W), channels last.

    Of three neighbouring pixels at least two are equal, so that an output is all taps times one of them and one tap times
    a difference of two: 9 products for 36, and no map of doubled size.
    """
    B, K, H, W = x.shape
    N = len(weight)
    taps = (_taps_matrix() @ weight.permute(2, 3, 1, 0).reshape(9, K * N)).view(3, 3, K, N)
    out = torch.empty((B, 2 * H, 2 * W, N), dtype=x.dtype)
    rows = _rows_at_once(H, W, tiles * TILE)
    padded = torch.empty(rows + 2, W + 2, K)
    for picture, target in zip(x.permute(0, 2, 3, 1), out, strict=True):
        for top in range(0, H, rows):
            count = min(rows, H - top)
            _fill_padded(padded[: count + 2], picture, top)
            pairs = target[2 * top : 2 * (top + count)].view(count, 2, W, 2, N)
            _upsampled_rows(padded[: count + 2], taps, bias, pairs)
    return out.permute(0, 3, 1, 2)


def _upsampled_rows(x: Tensor, taps: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Write out (R, 2, W, 2, N), rows and columns by parity, from x (R + 2, W + 2, K)."""
    down = x[1:] - x[:-1]  # differences of rows, (R + 1, W + 2, K)
    first, last = taps[0], taps[2]
    whole = _times(x[1:-1, 1:-1], taps[1, 1])
    if bias is not None:
        whole += bias
    across = x[1:-1, 1:] - x[1:-1, :-1]  # (R, W + 1, K)
    left = whole - _times(across[:, :-1], taps[1, 0])
    right = whole.add_(_times(across[:, 1:], taps[1, 2]))
    both = down[:, 1:] - down[:, :-1]
    down = down[:, 1:-1]
    for row, factors, sign in ((0, first, -1), (1, last, 1)):
        by = slice(row, row + len(out))
        straight = _times(down[by], factors[1])
        torch.add(left, straight, alpha=sign, out=out[:, row, :, 0])
        out[:, row, :, 0].add_(_times(both[by, :-1], factors[0]), alpha=-sign)
        torch.add(right, straight, alpha=sign, out=out[:, row, :, 1])
        out[:, row, :, 1].add_(_times(both[by, 1:], factors[2]), alpha=sign)


def _times(x: Tensor, weight: Tensor) -> Tensor:
    R, W, K = x.shape
    return (x.reshape(R * W, K) @ weight).view(R, W, -1)
