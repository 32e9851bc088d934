"""Against the fp32 sums that define it, and the model's own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from quant.kernels import reference
from quant.kernels.relu_linear_attention import relu_linear_attention
from sana_cli.models import layers

# The reference multiplies in fp32 too; the interpreter cuts bits off where it makes bf16 of fp32.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def heads(B: int, N: int, H: int, E: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Slices of one projection, as the engine passes them."""
    return torch.randn(B, N, 3 * H * E).to(dtype).unflatten(-1, (3 * H, E)).chunk(3, dim=2)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(
    ("B", "N", "H", "E"),
    [(1, 1, 1, 32), (2, 130, 3, 32), (1, 300, 2, 8), (1, 40, 1, 20), (2, 1300, 1, 20)],
)
def test_against_the_reference(
    interpreted: Callable[..., Any], B: int, N: int, H: int, E: int, dtype: torch.dtype
) -> None:
    q, k, v = heads(B, N, H, E, dtype)
    out = interpreted(relu_linear_attention, q, k, v)
    expected = reference.relu_linear_attention(q, k, v)
    assert out.is_contiguous()
    torch.testing.assert_close(out, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 4)


def test_programs_share_the_positions_of_large_maps() -> None:
    """72 heads of 1024 positions were 72 programs for 128 multiprocessors; 32 of a decoder's map, 256 steps each."""
    from quant.kernels.relu_linear_attention.kernel import span_of

    assert [span_of(N, 72, 128) for N in (256, 512, 1024, 4096)] == [256, 512, 384, 1408]
    assert span_of(128 * 128, 32, 128) == 2048
    assert span_of(4096, 1000, 128) == 4096


def test_the_reference_is_the_models() -> None:
    q, k, v = heads(2, 50, 3, 32)
    expected = layers.relu_linear_attention(q, k, v)
    # The model sums picture by picture, in another order.
    torch.testing.assert_close(
        reference.relu_linear_attention(q, k, v), expected, rtol=1e-5, atol=1e-6
    )


def test_sums_keep_more_bits_than_one_tf32() -> None:
    """Two numbers of 11 bits each hold a sum to 2^-21; checked here since the interpreter rounds neither."""
    sums = torch.randn(1000) * 1e4
    high = (sums.view(torch.int32) & -8192).view(torch.float32)
    low = ((sums - high).view(torch.int32) & -8192).view(torch.float32)  # what the device reads
    assert ((high + low - sums).abs() <= 2**-21 * sums.abs()).all()


def test_a_head_without_positive_queries_is_zero(interpreted: Callable[..., Any]) -> None:
    q, k, v = heads(1, 20, 2, 32)
    q = q.clone()
    q[:, 3, 1] = -1
    out = interpreted(relu_linear_attention, q, k, v)
    assert out[:, 3, 1].abs().max() == 0
    assert out[:, 3, 0].abs().max() > 0


@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_not_a_number_stays_so(interpreted: Callable[..., Any], which: int) -> None:
    tensors = [t.clone() for t in heads(1, 5, 2, 32)]
    tensors[which][0, 2, 1, 7] = float("nan")
    out = interpreted(relu_linear_attention, *tensors)
    assert out[:, 2, 1].isnan().any()
    assert out[:, :, 0].isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 4, 32)}, "q has shape"),
        ({"q": torch.zeros(1, 4, 2, 33)}, "heads of 33 channels"),
        ({"k": torch.zeros(1, 5, 2, 32)}, "k has shape"),
        ({"v": torch.zeros(1, 4, 2, 32).bfloat16()}, "v is torch.bfloat16"),
        ({"v": torch.zeros(1, 4, 32, 2).transpose(2, 3)}, "v has stride 2"),
        ({}, "CUDA device, not on cpu"),
    ],
)
def test_wrong_input(change: dict[str, Tensor], message: str) -> None:
    tensors = {name: torch.zeros(1, 4, 2, 32) for name in "qkv"} | change
    with pytest.raises(ValueError, match=message):
        relu_linear_attention(**tensors)
