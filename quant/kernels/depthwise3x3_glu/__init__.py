"""A depthwise 3x3 convolution of channels-last maps and the gate that follows it: the body of Sana's Mix-FFN."""

# B batch, H x W positions, C channels of the result: its input has twice as many, values then gates

from typing import Literal

import torch
from torch import Tensor

from quant.kernels.checks import require_contiguous, require_device, require_tensor


def repack(weight: Tensor) -> Tensor:
    """A stored weight (2C, 1, 3, 3) in the kernel's order, (9, 2C): channels of a tap together."""
    require_tensor("weight", weight, (None, 1, 3, 3))
    return weight.flatten(1).T.contiguous()


def depthwise3x3_glu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    activation: Literal["silu"] | None = None,
    strip: int | None = None,
) -> Tensor:
    """values * silu(gates) of conv(activation(x), weight) + bias, as (B, H, W, C) of x's type.

    Stride 1, a border of zeros. x (B, H, W, 2C); weight (9, 2C) as from `repack`; bias (2C,). All in fp32.
    `strip` is how many rows one program walks; without it, the size decides.
    """
    require_tensor("x", x, (None, None, None, None))
    B, H, W, channels = x.shape
    if not channels or channels % 2:
        raise ValueError(f"x has {channels} channels, which are not values and gates")
    require_tensor("weight", weight, (9, channels), like=x)
    require_tensor("bias", bias, (channels,), like=x)
    require_contiguous("x", x)
    require_contiguous("weight", weight)
    if activation not in (None, "silu"):
        raise ValueError(f"activation is {activation!r}, not 'silu' or None")
    require_device(x)
    out = torch.empty(B, H, W, channels // 2, dtype=x.dtype, device=x.device)
    if out.numel():
        from quant.kernels.depthwise3x3_glu.kernel import launch, strip_rows

        launch(x, weight, bias, out, activation, strip or strip_rows(*out.shape))
    return out
