"""Winograd's algorithm beside the direct sum: every size, with edges, strips and pictures of a batch."""

import pytest
import torch
from torch.nn import functional as F

from quant.backends.cpu_winograd import pays, suits, upsampled_conv, winograd_conv

ROUNDING = 2e-4  # of sums whose deviation is 1


def case(size: tuple[int, ...], outputs: int, bias: bool) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    x = torch.randn(size).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outputs, size[1], 3, 3) / (9 * size[1]) ** 0.5
    return x, weight, torch.randn(outputs) if bias else None


@pytest.mark.parametrize("tiles", [1, 6, 1000], ids=["a row", "a few rows", "whole"])
@pytest.mark.parametrize("size", [(1, 1), (3, 9), (4, 4), (8, 12), (17, 13), (30, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_every_size(size: tuple[int, int], tiles: int, bias: bool) -> None:
    x, weight, shift = case((2, 12, *size), 20, bias)
    out = winograd_conv(x, weight, shift, tiles=tiles)
    assert out.is_contiguous(memory_format=torch.channels_last)
    expected = F.conv2d(x, weight, shift, padding=1)
    torch.testing.assert_close(out, expected, rtol=0, atol=ROUNDING)
    enlarged = F.conv2d(F.interpolate(x, scale_factor=2), weight, shift, padding=1)
    torch.testing.assert_close(
        upsampled_conv(x, weight, shift, tiles=tiles), enlarged, rtol=0, atol=ROUNDING
    )


def test_equal_inputs_give_equal_bits() -> None:
    x, weight, shift = case((1, 64, 32, 32), 64, True)
    assert torch.equal(winograd_conv(x, weight, shift), winograd_conv(x, weight, shift))


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((128, 128, 3, 3), True), ((128, 64, 3, 3), False), ((3, 128, 3, 3), False), ((128, 128, 1, 1), False)],
)  # fmt: skip
def test_which_kernels_suit(shape: tuple[int, ...], fits: bool) -> None:
    assert suits(torch.empty(shape)) == fits
    assert not suits(torch.empty(shape, device="meta"))


def test_where_it_pays() -> None:
    with torch.no_grad():
        assert pays(torch.empty(1, 64, 32, 32), 64)
        assert not pays(torch.empty(1, 64, 31, 31), 64), "the kernel's transform takes longer"
        assert not pays(torch.empty(1, 64, 32, 32, dtype=torch.bfloat16), 64)
    assert not pays(torch.empty(1, 64, 32, 32), 64), "autograd sees no tensors that are used again"
