"""Bit-equal to the reference: integers and scales."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from quant import primitives
from quant.kernels import reference
from quant.kernels.quantize_per_token import quantize_per_token

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("smoothed", [False, True], ids=["plain", "smoothed"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("M", "K"), [(1, 1), (1, 130), (5, 33), (3, 1152)])
def test_bit_equal(
    interpreted: Callable[..., Any], M: int, K: int, dtype: torch.dtype, smoothed: bool
) -> None:
    x = (torch.randn(M, K) * 3).to(dtype)
    smooth = torch.rand(K) + 0.1 if smoothed else None
    q, scale = interpreted(quantize_per_token, x, smooth=smooth)
    wide = x.float() if smooth is None else x.float() * smooth
    expected_q, expected_scale = primitives.quantize_per_token(wide)
    assert torch.equal(q, expected_q)
    assert torch.equal(scale, expected_scale)


def test_zeros_ties_and_extremes(interpreted: Callable[..., Any]) -> None:
    x = torch.zeros(4, 64)
    x[1] = torch.arange(64) - 31.5  # with 127 among them the scale is 1: every value is a tie
    x[1, 0] = 127
    x[2, 5], x[2, 6] = 3e38, -1e38
    x[3] = torch.randn(64) * 1e-38
    q, scale = interpreted(quantize_per_token, x)
    expected_q, expected_scale = primitives.quantize_per_token(x)
    assert torch.equal(q, expected_q)
    assert torch.equal(scale, expected_scale)
    assert q[0].count_nonzero() == 0


def test_rows_of_a_wider_tensor(interpreted: Callable[..., Any]) -> None:
    x = torch.randn(6, 96)[::2, 16:80]
    q, _ = interpreted(quantize_per_token, x)
    assert torch.equal(q, primitives.quantize_per_token(x)[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_so(interpreted: Callable[..., Any], bad: float) -> None:
    """A broken activation must not turn into a plausible one: later checks look for it."""
    x = torch.randn(2, 40)
    x[1, 3] = bad
    q, scale = interpreted(quantize_per_token, x)
    out = q.float() * scale[:, None]
    assert out[0].isfinite().all()
    assert not out[1].isfinite().any()


def test_no_rows(interpreted: Callable[..., Any]) -> None:
    q, scale = interpreted(quantize_per_token, torch.empty(0, 8))
    assert q.shape == (0, 8)
    assert scale.shape == (0,)


@pytest.mark.parametrize(
    ("x", "smooth", "message"),
    [
        (torch.zeros(2, 3, 4), None, r"x has shape \(2, 3, 4\), not \(any, any\)"),
        (torch.zeros(2, 4, dtype=torch.int8), None, "x is torch.int8, not"),
        (torch.zeros(4, 2).T, None, "stride 2 in its last dimension"),
        (torch.zeros(1, 0), None, "0 channels"),
        (torch.zeros(1, 40000), None, "40000 channels"),
        (torch.zeros(2, 4), torch.zeros(5), r"smooth has shape \(5,\), not \(4\)"),
        (torch.zeros(2, 4), torch.zeros(4, device="meta"), "smooth is on meta, not on cpu"),
        (torch.zeros(2, 4), None, "CUDA device, not on cpu"),
    ],
)
def test_wrong_input(x: torch.Tensor, smooth: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize_per_token(x, smooth=smooth)


@pytest.mark.parametrize("smooth", [False, True], ids=["plain", "smooth"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_8_bit_floats(interpreted: Callable[..., Any], dtype: torch.dtype, smooth: bool) -> None:
    """Bit-equal to the definition, ties, carries and subnormal values included."""
    x = (torch.randn(9, 100) * torch.logspace(-6, 1, 100)).to(dtype)
    x[3] = 0
    x[4] = torch.linspace(0, 31, 100).to(dtype)
    factors = torch.rand(100) + 0.5 if smooth else None
    float8 = torch.float8_e4m3fn
    q, scale = interpreted(quantize_per_token, x, smooth=factors, q_dtype=float8)
    expected = reference.quantize_per_token(x, smooth=factors, q_dtype=float8)
    assert q.dtype == float8
    assert torch.equal(q.float(), expected[0].float())
    assert torch.equal(scale, expected[1])


def with_x(x: torch.Tensor, **rest: Any) -> tuple[Any, torch.Tensor]:
    """In the interpreter's process, with which tensors are shared: the result, and a copy of x as it is left."""
    x = x.clone()
    return quantize_per_token(x, **rest), x


@pytest.mark.parametrize("q_dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("M", "K", "B"), [(1, 1, 1), (6, 130, 3), (3, 1152, 1)])
def test_what_is_added_before(
    interpreted: Callable[..., Any],
    M: int,
    K: int,
    B: int,
    dtype: torch.dtype,
    q_dtype: torch.dtype,
) -> None:
    """To the bit: the sum as it is stored, and what the scheme makes of that."""
    x, branch = (torch.randn(M, K).to(dtype) for _ in range(2))
    rest = {"branch": branch, "gate": torch.randn(B, K), "smooth": torch.rand(K) + 0.5}
    (q, scale), left = interpreted(with_x, x, **rest, q_dtype=q_dtype)
    expected_q, expected_scale = reference.quantize_per_token(x, **rest, q_dtype=q_dtype)
    assert torch.equal(left, x)  # the definition has changed it, too
    assert torch.equal(q.float(), expected_q.float())
    assert torch.equal(scale, expected_scale)


def test_a_branch_that_does_not_fit() -> None:
    x, gate = torch.zeros(4, 8), torch.zeros(1, 8)
    with pytest.raises(ValueError, match="branch and gate come together"):
        quantize_per_token(x, branch=x)
    with pytest.raises(ValueError, match="branch has shape"):
        quantize_per_token(x, branch=torch.zeros(3, 8), gate=gate)
    with pytest.raises(ValueError, match="gate has 3 rows, which do not divide 4"):
        quantize_per_token(x, branch=x, gate=torch.zeros(3, 8))


def test_no_other_types() -> None:
    with pytest.raises(ValueError, match=r"q_dtype is torch\.float16"):
        quantize_per_token(torch.ones(2, 4), q_dtype=torch.float16)
