"""Against torch's attention, and of queries that are the scheme's product."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from quant import primitives
from quant.kernels import reference
from quant.kernels.cross_attention import cross_attention, cross_attention_w8a8

# The interpreter cuts bits off where a device rounds to bf16.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}


def text(B: int, L: int, H: int, E: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Keys and values as the model keeps them: views of (B, L, H * E)."""
    both = (torch.randn(B, L, H * E).to(dtype).unflatten(-1, (H, E)) for _ in range(2))
    return dict(zip(("keys", "values"), (t.transpose(1, 2) for t in both), strict=True))


def product(D: int, K: int) -> dict[str, Tensor]:
    weight, scale = primitives.quantize_per_channel(torch.randn(D, K) / K**0.5)
    return {"weight": weight, "weight_scale": scale, "bias": torch.randn(D)}


def with_largest(function: Callable[..., Tensor], *args: Any, **rest: Any) -> tuple[Tensor, Tensor]:
    """In the interpreter's process: the result, and the raised magnitudes."""
    largest = torch.zeros(len(args[0]))
    return function(*args, **rest, out_largest=largest), largest


def assert_largest(largest: Tensor, out: Tensor) -> None:
    assert torch.equal(largest, out.float().abs().amax(dim=1))


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(
    ("B", "N", "L", "H", "E"),
    [(1, 1, 1, 1, 16), (2, 70, 40, 2, 72), (1, 5, 33, 1, 112), (3, 2, 3, 2, 20), (1, 3, 2, 1, 8)],
)
def test_attention(
    interpreted: Callable[..., Any], B: int, N: int, L: int, H: int, E: int, dtype: torch.dtype
) -> None:
    q, context = torch.randn(B * N, H * E).to(dtype), text(B, L, H, E, dtype)
    out, largest = interpreted(with_largest, cross_attention, q, **context)
    expected = reference.cross_attention(q, **context)
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(out, expected, **close)
    assert_largest(largest, out)


@pytest.mark.parametrize("smoothed", [False, True], ids=["plain", "smoothed"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(("N", "K", "E"), [(5, 128, 72), (66, 40, 16)], ids=str)
def test_product_and_attention(
    interpreted: Callable[..., Any], N: int, K: int, E: int, dtype: torch.dtype, smoothed: bool
) -> None:
    """Both of the scheme: integers of the rows, sums, and queries rounded to the type."""
    x, context = (torch.randn(2 * N, K) * 3).to(dtype), text(2, 6, 2, E, dtype)
    smooth = torch.rand(K) + 0.1 if smoothed else None
    seen = x.float() if smooth is None else x.float() * smooth
    linear = product(2 * E, K)
    out, largest = interpreted(
        with_largest, cross_attention_w8a8, x, seen.abs().amax(dim=1), smooth=smooth, **linear,
        **context,
    )  # fmt: skip
    q = primitives.linear_w8a8(
        x, linear["weight"], linear["weight_scale"], linear["bias"], smooth_K=smooth
    )
    expected = reference.cross_attention(q, **context)
    assert out.shape == (2 * N, 2 * E)
    close = {"rtol": TOLERANCE[dtype], "atol": 4 * TOLERANCE[dtype]}  # queries round as well
    torch.testing.assert_close(out, expected, **close)
    assert_largest(largest, out)


def test_masked_tokens_are_not_seen(interpreted: Callable[..., Any]) -> None:
    """Also where a whole block of them comes first."""
    q, context = torch.randn(6, 32), text(2, 70, 2, 16, torch.float32)
    mask = torch.ones(2, 70, dtype=torch.bool)
    mask[0, :67] = False
    mask[1, 3:] = False
    out = interpreted(cross_attention, q, **context, mask=mask)
    torch.testing.assert_close(out, reference.cross_attention(q, **context, mask=mask))


def test_what_is_not_a_number_stays_so(interpreted: Callable[..., Any]) -> None:
    """In the result, and in what says how large it is."""
    x = torch.randn(4, 32)
    x[1, 5] = float("nan")
    largest = x.abs().amax(dim=1)
    out, raised = interpreted(
        with_largest, cross_attention_w8a8, x, largest, **product(32, 32),
        **text(1, 4, 2, 16, torch.float32),
    )  # fmt: skip
    assert out.isnan().any(dim=1).tolist() == [False, True, False, False]
    assert raised.isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(4, 8, 1)}, "x has shape"),
        ({"x": torch.zeros(4, 0)}, "x has no channels"),
        ({"x": torch.zeros(3, 8)}, "5 tokens of 2 pictures, for 3 rows"),
        ({"largest": torch.zeros(3)}, r"largest has shape \(3,\), not \(4\)"),
        ({"weight": torch.zeros(16, 9, dtype=torch.int8)}, "weight has shape"),
        ({"weight_scale": torch.zeros(15)}, "weight_scale has shape"),
        ({"bias": torch.zeros(15)}, "bias has shape"),
        ({"smooth": torch.zeros(9)}, "smooth has shape"),
        ({"keys": torch.zeros(2, 2, 5, 8).half()}, "keys is torch.float16"),
        ({"keys": torch.zeros(2, 1, 5, 200)}, "heads of 200 channels"),
        ({"values": torch.zeros(2, 2, 4, 8)}, "values has shape"),
        ({"mask": torch.ones(2, 5)}, "mask is torch.float32"),
        ({"out_largest": torch.zeros(5)}, "out_largest has shape"),
        ({}, "CUDA device, not on cpu"),
    ],
)
def test_wrong_input(change: dict[str, Tensor], message: str) -> None:
    arguments: dict[str, Any] = {
        "x": torch.zeros(4, 8), "largest": torch.zeros(4), "keys": torch.zeros(2, 2, 5, 8),
        "weight": torch.zeros(16, 8, dtype=torch.int8), "weight_scale": torch.zeros(16),
        "values": torch.zeros(2, 2, 5, 8),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        cross_attention_w8a8(**(arguments | change))


def test_queries_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"q has shape \(4, 15\), not \(any, 16\)"):
        cross_attention(torch.zeros(4, 15), torch.zeros(2, 2, 5, 8), torch.zeros(2, 2, 5, 8))
