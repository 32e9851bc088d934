"""fp32 within a few roundings; the residual stream as it is stored; int8 as the scheme would make of the result."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from quant.kernels import reference
from quant.kernels.layer_norm_modulate import layer_norm_modulate, layer_norm_modulate_quantize

# fp32: sums in another order. fp16: values that close may round to neighbours. bf16: the interpreter cuts bits
# off where a device rounds, in the residual stream first, so that the norm differs by the stream's own steps.
RELATIVE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
ABSOLUTE = {torch.float32: 5e-6, torch.bfloat16: 0.03, torch.float16: 1e-3}


def operands(M: int, D: int, B: int, dtype: torch.dtype, parts: str) -> dict[str, Any]:
    rest: dict[str, Any] = {"eps": 1e-6}
    if "branch" in parts:
        rest |= {"branch": torch.randn(M, D).to(dtype), "gate": torch.randn(B, D)}
    if "late" in parts:  # of some rows, without a gate
        rest |= {"branch": torch.randn(M - M // 2 - M // 4, D).to(dtype), "branch_first": M // 2}
    if "addend" in parts:
        rest["addend"] = torch.randn(B, D)
    return rest | {"x": (torch.randn(M, D) * 3 + 1).to(dtype)} | modulation(D, B)


def modulation(D: int, B: int) -> dict[str, Tensor]:
    return {"shift": torch.randn(B, D), "scale": torch.randn(B, D)}


def with_x(function: Callable[..., Any], **arguments: Any) -> tuple[Any, Tensor]:
    """In the interpreter's process, with which tensors are shared: the result, and a copy of x as it is left."""
    x = arguments["x"].clone()
    return function(**(arguments | {"x": x})), x


@pytest.mark.parametrize("dtype", list(RELATIVE), ids=str)
@pytest.mark.parametrize(
    "parts", ["", "branch", "addend", "branch addend", "late addend"], ids=lambda p: p or "plain"
)
@pytest.mark.parametrize(("M", "D", "B"), [(1, 1, 1), (6, 33, 3), (4, 1152, 1)])
def test_against_the_reference(
    interpreted: Callable[..., Any], M: int, D: int, B: int, parts: str, dtype: torch.dtype
) -> None:
    arguments = operands(M, D, B, dtype, parts)
    out, x = interpreted(with_x, layer_norm_modulate, **arguments)
    expected = reference.layer_norm_modulate(**arguments)  # changes arguments["x"]
    torch.testing.assert_close(x, arguments["x"], rtol=RELATIVE[dtype], atol=1e-6)
    torch.testing.assert_close(out, expected, rtol=RELATIVE[dtype], atol=ABSOLUTE[dtype])
    assert out.dtype == dtype


@pytest.mark.parametrize("smoothed", [False, True], ids=["plain", "smoothed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_quantized(interpreted: Callable[..., Any], dtype: torch.dtype, smoothed: bool) -> None:
    """What the scheme makes of the unquantized result, to the bit."""
    arguments = operands(5, 130, 1, dtype, "addend")
    smooth = torch.rand(130) + 0.5 if smoothed else None
    normed, _ = interpreted(with_x, layer_norm_modulate, **arguments)
    (q, scale), x = interpreted(with_x, layer_norm_modulate_quantize, smooth=smooth, **arguments)
    expected_q, expected_scale = reference.quantize_per_token(normed, smooth=smooth)
    assert torch.equal(q, expected_q)
    assert torch.equal(scale, expected_scale)
    assert not torch.equal(x, arguments["x"])


def test_what_is_not_a_number_stays_so(interpreted: Callable[..., Any]) -> None:
    x = torch.randn(2, 40)
    x[1, 3] = float("nan")
    q, scale = interpreted(layer_norm_modulate_quantize, x, eps=1e-6, **modulation(40, 1))
    out = q.float() * scale[:, None]
    assert out[0].isfinite().all()
    assert not out[1].isfinite().any()


def test_rows_and_modulation_of_wider_tensors(interpreted: Callable[..., Any]) -> None:
    x, table = torch.randn(6, 96)[::2, 16:80], torch.randn(1, 6, 64)
    rest = {"shift": table[:, 0], "scale": table[:, 1], "eps": 1e-6}
    out = interpreted(layer_norm_modulate, x, **rest)
    torch.testing.assert_close(out, reference.layer_norm_modulate(x, **rest), rtol=2e-6, atol=5e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3, 8)}, "x has shape"),
        ({"x": torch.zeros(1, 40000)}, "40000 channels"),
        ({"shift": torch.zeros(3, 8)}, "shift has 3 rows, which do not divide 4"),
        ({"scale": torch.zeros(1, 9)}, "scale has shape"),
        ({"gate": torch.zeros(1, 8)}, "a gate needs a branch"),
        ({"branch": torch.zeros(4, 9)}, "branch has shape"),
        ({"branch": torch.zeros(3, 8), "branch_first": 2}, "branch has 3 rows from 2 on, of 4"),
        ({"branch": torch.zeros(3, 8), "branch_first": -1}, "branch has 3 rows from -1 on, of 4"),
        ({"addend": torch.zeros(0, 8)}, "addend has 0 rows"),
        ({}, "CUDA device, not on cpu"),
    ],
)
def test_wrong_input(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"x": torch.zeros(4, 8), "eps": 1e-6}
    arguments |= {"shift": torch.zeros(1, 8), "scale": torch.zeros(1, 8)}
    with pytest.raises(ValueError, match=message):
        layer_norm_modulate(**(arguments | change))
