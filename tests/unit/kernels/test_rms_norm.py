"""fp32 within a few roundings; norms of parts of a row, in place; DC-AE's norm with its neighbours."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from quant.kernels import reference
from quant.kernels.rms_norm import rms_norm
from sana_cli.models.layers import RMSNorm

# The interpreter cuts bits off where a device rounds to bf16.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("parts", ["", "bias relu", "bias residual"], ids=lambda p: p or "plain")
@pytest.mark.parametrize(("M", "P", "D"), [(1, 1, 1), (17, 1, 128), (3, 2, 200), (2, 1, 3000)])
def test_against_the_reference(
    interpreted: Callable[..., Any], M: int, P: int, D: int, parts: str, dtype: torch.dtype
) -> None:
    x, weight = (torch.randn(M, P, D) * 3).to(dtype), torch.randn(P, D).to(dtype)
    rest: dict[str, Any] = {"eps": 1e-5}
    if "bias" in parts:
        rest["bias"] = torch.randn(P, D).to(dtype)
    if "relu" in parts:
        rest["activation"] = "relu"
    if "residual" in parts:
        rest["residual"] = torch.randn(M, P, D).to(dtype)
    out = interpreted(rms_norm, x, weight, **rest)
    expected = reference.rms_norm(x, weight, **rest)
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("pictures", [1, 2, 17, 34], ids=lambda n: f"{n} pictures")
def test_the_largest_magnitudes_of_pictures(interpreted: Callable[..., Any], pictures: int) -> None:
    """Programs of 16 rows hold rows of one picture, of two, or of many."""
    x, weight = torch.randn(34, 1, 128), torch.randn(1, 128)
    out, largest = interpreted(with_largest, x, weight, pictures)
    assert torch.equal(largest, out.view(pictures, -1).abs().amax(dim=1))


def with_largest(x: Tensor, weight: Tensor, pictures: int) -> tuple[Tensor, Tensor]:
    """In the interpreter's process."""
    largest = torch.zeros(pictures)
    return rms_norm(x, weight, eps=1e-5, residual=x, out_largest=largest), largest


def in_place(x: Tensor, weight: Tensor) -> Tensor:
    """In the interpreter's process, with which tensors are shared: x with the first two of three parts normed."""
    x = x.clone()
    parts = x.unflatten(-1, (3, -1))[:, :2]
    rms_norm(parts, weight, eps=1e-5, out=parts)
    return x


def test_queries_and_keys_of_a_projection(interpreted: Callable[..., Any]) -> None:
    """The models' RMSNorm on both, values untouched."""
    norms = [RMSNorm(40), RMSNorm(40)]
    for norm in norms:
        torch.nn.init.normal_(norm.weight)
    qkv = torch.randn(5, 120)
    out = interpreted(in_place, qkv, torch.stack([norm.weight.detach() for norm in norms]))
    q, k, v = qkv.chunk(3, dim=-1)
    expected = torch.cat([norms[0](q), norms[1](k), v], dim=-1)
    torch.testing.assert_close(out, expected.detach(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(4, 8)}, "x has shape"),
        ({"x": torch.zeros(1, 1, 40000)}, "40000 channels"),
        ({"weight": torch.zeros(8)}, "weight has shape"),
        ({"bias": torch.zeros(2, 8)}, "bias has shape"),
        ({"residual": torch.zeros(4, 1, 9)}, "residual has shape"),
        ({"out": torch.zeros(3, 1, 8)}, "out has shape"),
        ({"activation": "silu"}, "activation is 'silu'"),
        ({}, "CUDA device, not on cpu"),
    ],
)
def test_wrong_input(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"x": torch.zeros(4, 1, 8), "weight": torch.zeros(1, 8)}
    with pytest.raises(ValueError, match=message):
        rms_norm(**(arguments | {"eps": 1e-5} | change))
