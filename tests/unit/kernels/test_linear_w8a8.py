"""Sums are bit-equal; the epilogue is fp32 and may contract a product and a sum into one rounding."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from quant import primitives
from quant.kernels import reference
from quant.kernels.linear_w8a8 import linear_w8a8, linear_w8a8_on_load
from quant.kernels.tiles import Tile

TILE = Tile(m=32, n=32, k=64, warps=4, stages=2, group=2)
TILES = {"columns of a power of two": TILE, "extra columns": replace(TILE, extra=16)}
each_tile = pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
# fp32: a few roundings of 2^-24. bf16 and fp16: two values that close may round to neighbours, 2^-8 and
# 2^-11 apart.
RELATIVE = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def operands(M: int, N: int, K: int) -> list[Tensor]:
    def integers(rows: int) -> Tensor:
        return torch.randint(-127, 128, (rows, K), dtype=torch.int8)

    return [integers(M), torch.rand(M) / 500, integers(N), torch.rand(N) / 500]


@pytest.mark.parametrize(
    ("M", "N", "K"), [(1, 1, 1), (1, 40, 128), (33, 65, 100), (70, 31, 64), (130, 48, 200)]
)
@each_tile
def test_sums_are_exact(
    interpreted: Callable[..., Any], tile: Tile, M: int, N: int, K: int
) -> None:
    q, _, weight, _ = operands(M, N, K)
    ones = torch.ones(M), torch.ones(N)
    out = interpreted(linear_w8a8, q, ones[0], weight, ones[1], out_dtype=torch.float32, tile=tile)
    assert torch.equal(out, primitives.int8_matmul(q, weight).float())


def test_the_largest_sums(interpreted: Callable[..., Any]) -> None:
    """Beyond 2^24, where fp32 sums would no longer be integers."""
    q = torch.full((2, 5601), 127, dtype=torch.int8)
    q[1] = -127
    weight = torch.full((3, 5601), 127, dtype=torch.int8)
    ones = torch.ones(2), torch.ones(3)
    tile = Tile(m=16, n=16, k=1024, warps=1, stages=1)
    out = interpreted(linear_w8a8, q, ones[0], weight, ones[1], out_dtype=torch.float32, tile=tile)
    assert torch.equal(out, primitives.int8_matmul(q, weight).float())
    assert out.abs().min() > 2**24


@pytest.mark.parametrize("dtype", list(RELATIVE), ids=str)
@pytest.mark.parametrize(
    "parts",
    ["", "bias", "bias silu", "gate", "residual", "bias silu gate residual"],
    ids=lambda parts: parts or "plain",
)
@pytest.mark.parametrize(("M", "B"), [(64, 2), (66, 3)], ids=["one gate a tile", "mixed gates"])
@each_tile
def test_epilogue(
    interpreted: Callable[..., Any], tile: Tile, M: int, B: int, parts: str, dtype: torch.dtype
) -> None:
    N = 40
    args = operands(M, N, 64)
    bias = torch.randn(N).to(dtype) if "bias" in parts else None
    activation = "silu" if "silu" in parts else None
    gate = torch.randn(B, N).to(dtype) if "gate" in parts else None
    residual = torch.randn(M, N).to(dtype) if "residual" in parts else None
    out = interpreted(
        linear_w8a8, *args, bias=bias, activation=activation, gate=gate, residual=residual,
        out_dtype=dtype, tile=tile,
    )  # fmt: skip
    expected = reference.linear_w8a8(
        *args, bias=bias, activation=activation, gate=gate, residual=residual, out_dtype=dtype
    )  # fmt: skip
    torch.testing.assert_close(out, expected, rtol=RELATIVE[dtype], atol=1e-6)


def test_it_is_the_scheme(interpreted: Callable[..., Any]) -> None:
    """With its quantizer it is `primitives.linear_w8a8`, by the table's own tile."""
    x = torch.randn(5, 96)
    weight, weight_scale = primitives.quantize_per_channel(torch.randn(24, 96))
    bias = torch.randn(24)
    q, scale = primitives.quantize_per_token(x)
    out = interpreted(
        linear_w8a8, q, scale, weight, weight_scale, bias=bias, out_dtype=torch.float32
    )
    expected = primitives.linear_w8a8(x, weight, weight_scale, bias)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


def test_views_keep_their_strides(interpreted: Callable[..., Any]) -> None:
    q, scale, weight, weight_scale = operands(8, 40, 256)
    residual, gate = torch.randn(8, 100), torch.randn(2, 100)
    views = (q[::2, 64:192], scale[:4], weight[::2, :128], weight_scale[:20])
    rest = {"out_dtype": torch.float32}
    out = interpreted(
        linear_w8a8, *views, gate=gate[:, 8:28], residual=residual[::2, 8:28], tile=TILE, **rest
    )
    expected = reference.linear_w8a8(
        *views, gate=gate[:, 8:28], residual=residual[::2, 8:28], **rest
    )
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(4, 8)}, "q is torch.float32, not torch.int8"),
        ({"weight": torch.zeros(6, 9, dtype=torch.int8)}, r"weight has shape \(6, 9\), not"),
        ({"weight": torch.zeros(8, 6, dtype=torch.int8).T}, "weight has stride 6"),
        ({"scale": torch.ones(5)}, r"scale has shape \(5,\), not \(4\)"),
        ({"scale": torch.ones(4).double()}, "scale is torch.float64"),
        ({"weight_scale": torch.ones(6, 1)}, "weight_scale has shape"),
        ({"bias": torch.ones(7)}, "bias has shape"),
        ({"gate": torch.ones(3, 6)}, "gate has 3 rows, which do not divide 4"),
        ({"gate": torch.ones(0, 6)}, "gate has 0 rows"),
        ({"residual": torch.ones(4, 5)}, "residual has shape"),
        ({"residual": torch.ones(4, 6, device="meta")}, "residual is on meta"),
        ({"out_largest": torch.ones(5)}, "out_largest has shape"),
        ({"out_smooth": torch.ones(5)}, "out_smooth has shape"),
        ({"activation": "gelu"}, "activation is 'gelu'"),
        ({"out_dtype": torch.int8}, "out_dtype is torch.int8"),
        ({}, "CUDA device, not on cpu"),
    ],
)
def test_wrong_input(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "q": torch.zeros(4, 8, dtype=torch.int8),
        "scale": torch.ones(4),
        "weight": torch.zeros(6, 8, dtype=torch.int8),
        "weight_scale": torch.ones(6),
    }
    with pytest.raises(ValueError, match=message):
        linear_w8a8(**(arguments | change))


def in_place(*args: Tensor, residual: Tensor) -> Tensor:
    """In the interpreter's process, with which tensors are shared: a copy of the residual, updated."""
    stream = residual.clone()
    assert linear_w8a8(*args, residual=stream, out=stream, tile=TILE) is stream
    return stream


def test_the_residual_is_updated_in_place(interpreted: Callable[..., Any]) -> None:
    args, residual = operands(40, 48, 64), torch.randn(40, 48)
    expected = reference.linear_w8a8(*args, residual=residual, out_dtype=torch.float32)
    out = interpreted(in_place, *args, residual=residual)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


def largest_of_rows(
    *args: Tensor, smooth: Tensor | None, residual: Tensor, tile: Tile
) -> tuple[Tensor, ...]:
    """In the interpreter's process: the result, and what was raised to its rows' magnitudes."""
    largest = torch.zeros(len(residual))
    out = linear_w8a8(
        *args, residual=residual, out_dtype=residual.dtype, out_largest=largest, out_smooth=smooth,
        tile=tile,
    )  # fmt: skip
    return out, largest


@pytest.mark.parametrize("smoothed", [False, True], ids=["plain", "smoothed"])
@pytest.mark.parametrize("dtype", list(RELATIVE), ids=str)
@each_tile
def test_the_largest_of_each_row(
    interpreted: Callable[..., Any], tile: Tile, dtype: torch.dtype, smoothed: bool
) -> None:
    """Over tiles that end within the rows and columns: of what was stored, not of what was rounded to it."""
    args, residual = operands(40, 70, 64), torch.randn(40, 70).to(dtype)
    residual[3, 69] = float("nan")
    smooth = torch.rand(70) + 0.1 if smoothed else None
    out, largest = interpreted(largest_of_rows, *args, residual=residual, smooth=smooth, tile=tile)
    wide = out.float() if smooth is None else out.float() * smooth
    assert torch.equal(largest.nan_to_num(-1), wide.abs().amax(dim=1).nan_to_num(-1))
    assert largest.isnan().nonzero().tolist() == [[3]]


@pytest.mark.parametrize("dtype", list(RELATIVE), ids=str)
@pytest.mark.parametrize(("M", "N", "K"), [(1, 1, 1), (33, 65, 100), (40, 48, 128)])
def test_on_load_it_is_the_scheme(
    interpreted: Callable[..., Any], M: int, N: int, K: int, dtype: torch.dtype
) -> None:
    """The same integers as of whole rows, so the same sums."""
    x = (torch.randn(M, K) * 3).to(dtype)
    x[0] = 0
    weight, weight_scale = primitives.quantize_per_channel(torch.randn(N, K))
    largest = x.float().abs().amax(dim=1)
    rest = {"bias": torch.randn(N), "residual": torch.randn(M, N), "out_dtype": torch.float32}
    out = interpreted(linear_w8a8_on_load, x, largest, weight, weight_scale, **rest, tile=TILE)
    expected = reference.linear_w8a8(
        *primitives.quantize_per_token(x.float()), weight, weight_scale, **rest
    )
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


def test_on_load_rows_that_are_not_numbers_stay_so(interpreted: Callable[..., Any]) -> None:
    x = torch.randn(4, 64)
    x[2, 7] = float("nan")
    _, _, weight, weight_scale = operands(1, 8, 64)
    out = interpreted(linear_w8a8_on_load, x, x.abs().amax(dim=1), weight, weight_scale)
    assert out.isnan().all(dim=1).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(4, 8, dtype=torch.int8)}, "x is torch.int8"),
        ({"largest": torch.ones(5)}, r"largest has shape \(5,\), not \(4\)"),
        ({}, "CUDA device, not on cpu"),
    ],
)
def test_wrong_floats(change: dict[str, Tensor], message: str) -> None:
    arguments: dict[str, Any] = {
        "x": torch.zeros(4, 8), "largest": torch.ones(4), "weight_scale": torch.ones(6),
        "weight": torch.zeros(6, 8, dtype=torch.int8),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        linear_w8a8_on_load(**(arguments | change))
