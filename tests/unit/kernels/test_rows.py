"""Quotients mended by their remainders, as devices compute them, are the correctly rounded ones.

The interpreter rounds between a product and a sum, so the operations are repeated here: fp64 holds a product of two
fp32 numbers, and the remainder that follows, exactly.
"""

import pytest
import torch
from torch import Tensor

from quant import primitives


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (a.double() * b.double() + c.double()).float()


def quotients(x: Tensor, largest: Tensor, remainders: int) -> Tensor:
    """Those of `quantize_tile`, of x (M, K) and the largest magnitudes of its rows (M, 1)."""
    scale = largest / 127
    lift = torch.where(largest < 1e-20, 2.0**100, 1.0)
    divisor = torch.where(scale > 0, scale, 1.0) * lift
    inverse = 1 / divisor
    x = x * lift
    q = x * inverse
    for _ in range(remainders):
        q = fma(fma(q, -divisor, x), inverse, q)
    return q


def integers(x: Tensor, largest: Tensor) -> Tensor:
    """Of 16-bit values."""
    return quotients(x, largest, 1).round().to(torch.int8)


@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [(torch.float16, 0), *((torch.bfloat16, e) for e in (-120, -60, 0, 110))],
    ids=str,
)
def test_every_pair_of_significands(dtype: torch.dtype, exponent: int) -> None:
    """What a row's largest value and another may be, but for a power of two that both have."""
    bits = 7 if dtype == torch.bfloat16 else 10
    ones = torch.arange(2**bits, 2 ** (bits + 1)).float() * 2.0 ** (exponent - bits)
    largest = ones[:, None]
    assert torch.equal(ones, ones.to(dtype).float())
    for smaller in range(10):  # below 2^-9 of the largest all are zero
        x = torch.minimum((ones * 2.0**-smaller).expand(len(ones), -1), largest)
        expected = (x / (largest / 127)).round().to(torch.int8)
        assert torch.equal(integers(x, largest), expected)


def test_zeros_and_the_scheme() -> None:
    x = torch.randn(50, 300).bfloat16().float()
    x[3] = 0
    expected, _ = primitives.quantize_per_token(x)
    assert torch.equal(integers(x, x.abs().amax(dim=1, keepdim=True)), expected)


def test_any_values() -> None:
    """Two make every bit of the quotient right."""
    torch.manual_seed(0)
    x, largest = torch.rand(1000, 1000) + 1, torch.rand(1000, 1) + 2
    expected = x / (largest / 127)
    assert torch.equal(quotients(x, largest, 2), expected)
    assert not torch.equal(quotients(x, largest, 0), expected)
