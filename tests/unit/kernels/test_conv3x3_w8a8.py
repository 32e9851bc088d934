"""Sums are bit-equal to those of an fp64 convolution; the epilogue is the linear kernel's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant.config import QuantConfig
from quant.kernels import reference
from quant.kernels.conv3x3_w8a8 import conv3x3_w8a8, repack
from quant.kernels.tiles import Tile
from quant.layers import QuantConv2d

TILE = Tile(m=32, n=32, k=32, warps=4, stages=2, group=2)


def integers(*shape: int) -> Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int8)


@pytest.mark.parametrize(
    ("B", "H", "W", "K", "N"),
    [(1, 1, 1, 1, 1), (1, 1, 7, 32, 5), (2, 6, 1, 40, 33), (3, 5, 9, 64, 40)],
)
def test_sums_are_exact(
    interpreted: Callable[..., Any], B: int, H: int, W: int, K: int, N: int
) -> None:
    q, weight = integers(B, H, W, K), integers(N, K, 3, 3)
    args = torch.tensor(1.0), torch.ones(N)
    out = interpreted(
        conv3x3_w8a8, q, args[0], repack(weight), args[1], out_dtype=torch.float32, tile=TILE
    )
    assert torch.equal(
        out, reference.conv3x3_w8a8(q, args[0], repack(weight), args[1], out_dtype=torch.float32)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("per_picture", [False, True], ids=["one scale", "scale a picture"])
@pytest.mark.parametrize("parts", ["", "bias silu", "bias residual"], ids=lambda p: p or "plain")
def test_epilogue(
    interpreted: Callable[..., Any], parts: str, per_picture: bool, dtype: torch.dtype
) -> None:
    B, H, W, K, N = 2, 5, 5, 32, 20
    q, weight = integers(B, H, W, K), integers(N, K, 3, 3)
    act_scale = torch.tensor([0.001, 0.2]) if per_picture else torch.tensor(0.01)
    weight_scale = torch.rand(N) / 100
    bias = torch.randn(N) if "bias" in parts else None
    activation = "silu" if "silu" in parts else None
    residual = torch.randn(B, H, W, N).to(dtype) if "residual" in parts else None
    out = interpreted(
        conv3x3_w8a8, q, act_scale, repack(weight), weight_scale, bias=bias, activation=activation,
        residual=residual, out_dtype=dtype, tile=TILE,
    )  # fmt: skip
    expected = reference.conv3x3_w8a8(
        q, act_scale, repack(weight), weight_scale, bias=bias, activation=activation,
        residual=residual, out_dtype=dtype,
    )  # fmt: skip
    relative = 1e-6 if dtype == torch.float32 else 2**-7  # neighbours in bf16
    torch.testing.assert_close(out, expected, rtol=relative, atol=1e-6)


@pytest.mark.parametrize("channels", [(24, 12), (16, 16), (8, 16)], ids=str)
@pytest.mark.parametrize("B", [1, 2])
def test_upsampled(interpreted: Callable[..., Any], B: int, channels: tuple[int, int]) -> None:
    """The enlarged map is read where it lies, and its shortcut is added; magnitudes are the result's."""
    K, N = channels
    q, weight = integers(B, 3, 5, K), repack(integers(N, K, 3, 3))
    rest = {
        "bias": torch.randn(N), "shortcut": torch.randn(B, 3, 5, K), "upsampled": True,
        "out_dtype": torch.float32,
    }  # fmt: skip
    out, largest = interpreted(upsampled_with_largest, q, weight, rest)
    args = q, torch.tensor(0.01), weight, torch.full((N,), 0.02)
    expected = reference.conv3x3_w8a8(*args, **rest)
    assert out.shape == (B, 6, 10, N)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(largest, out.flatten(1).abs().amax(dim=1))


def upsampled_with_largest(
    q: Tensor, weight: Tensor, rest: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """In the interpreter's process."""
    largest = torch.zeros(len(q))
    args = q, torch.tensor(0.01), weight, torch.full((len(weight),), 0.02)
    return conv3x3_w8a8(*args, **rest, out_largest=largest, tile=TILE), largest


def test_it_is_the_layer(interpreted: Callable[..., Any]) -> None:
    """What `QuantConv2d` computes, by the table's own tile."""
    conv = nn.Conv2d(24, 16, 3, padding=1)
    layer = QuantConv2d.from_conv(conv, QuantConfig(weight_bits=8, act_bits=8))
    x = torch.randn(2, 24, 4, 6)
    act_scale = x.abs().amax(dim=(1, 2, 3)) / 127
    q = (x / act_scale[:, None, None, None]).round().to(torch.int8)
    out = interpreted(
        conv3x3_w8a8, q.permute(0, 2, 3, 1).contiguous(), act_scale, repack(layer.qweight),
        layer.scale, bias=layer.bias, out_dtype=torch.float32,
    )  # fmt: skip
    torch.testing.assert_close(out.permute(0, 3, 1, 2), layer(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": integers(2, 8, 3)}, "q has shape"),
        ({"q": torch.zeros(2, 4, 4, 8)}, "q is torch.float32"),
        ({"q": integers(2, 4, 9, 8)[:, :, ::2]}, "q of shape .* is not contiguous"),
        ({"weight": integers(6, 8, 3, 3)}, "weight has shape"),
        ({"act_scale": torch.ones(3)}, r"act_scale has shape \(3,\), not \(2\)"),
        ({"weight_scale": torch.ones(5)}, "weight_scale has shape"),
        ({"bias": torch.ones(5)}, "bias has shape"),
        ({"residual": torch.ones(2, 4, 5, 5)}, "residual has shape"),
        ({"activation": "relu"}, "activation is 'relu'"),
        ({"shortcut": torch.ones(2, 4, 5, 8)}, "a shortcut of 8 channels needs upsampled"),
        ({"upsampled": True, "residual": torch.ones(2, 4, 5, 6)}, "residual has shape"),
        ({"out_largest": torch.ones(3)}, "out_largest has shape"),
        ({"out_dtype": torch.float64}, "out_dtype is torch.float64"),
        ({}, "CUDA device, not on cpu"),
    ],
)
def test_wrong_input(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "q": integers(2, 4, 5, 8),
        "act_scale": torch.tensor(1.0),
        "weight": integers(6, 3, 3, 8),
        "weight_scale": torch.ones(6),
    }
    with pytest.raises(ValueError, match=message):
        conv3x3_w8a8(**(arguments | change))


def test_only_3x3_weights_are_repacked() -> None:
    with pytest.raises(ValueError, match=r"not \(any, any, 3, 3\)"):
        repack(integers(4, 4, 1, 1))
