"""A 3x3 convolution of int8 pictures, channels last, as one product over nine shifted views of the input."""

# B batch, H x W pixels, K input channels, N output channels

from typing import Literal

import torch
from torch import Tensor

from quant.kernels.checks import require_contiguous, require_device, require_float, require_tensor
from quant.kernels.measured_tiles import capability_of, measured_tile
from quant.kernels.tiles import CONV3X3_W8A8, Tile, tile_for

MAX_K = (2**31 - 1) // (9 * 128 * 128)  # int32 holds the sum of so many products of each tap


def repack(qweight: Tensor) -> Tensor:
    """A stored weight (N, K, 3, 3) int8 in the kernel's order, (N, 3, 3, K): channels of a tap together."""
    require_tensor("qweight", qweight, (None, None, 3, 3), [torch.int8])
    return qweight.permute(0, 2, 3, 1).contiguous()


def conv3x3_w8a8(
    q: Tensor,
    act_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    *,
    bias: Tensor | None = None,
    activation: Literal["silu"] | None = None,
    residual: Tensor | None = None,
    upsampled: bool = False,
    shortcut: Tensor | None = None,
    out_largest: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    tile: Tile | None = None,
) -> Tensor:
    """activation(conv(q, weight) * act_scale * weight_scale + bias) + residual, (B, H, W, N).

    Stride 1, a border of zeros. q (B, H, W, K) int8; act_scale fp32, () for all pictures or (B,);
    weight (N, 3, 3, K) int8 as from `repack`; weight_scale (N,) fp32; bias (N,); residual (B, H, W, N).
    All but the sums is fp32. `out_largest` (B,) fp32 is raised to the largest magnitude of each picture of the result.
    Without `tile`, the table decides.

    `upsampled`: of q enlarged to (B, 2H, 2W, K) by its nearest neighbours, which are read where they lie; the result and
    the residual have that size. `shortcut` (B, H, W, K) floats are added to it as `join_phases` does.
    """
    require_tensor("q", q, (None, None, None, None), [torch.int8])
    B, H, W, K = q.shape
    require_tensor("weight", weight, (None, 3, 3, K), [torch.int8], like=q)
    N = weight.shape[0]
    if not 0 < K <= MAX_K:
        raise ValueError(f"q has {K} channels, not 1 to {MAX_K}")
    per_picture = () if act_scale.ndim == 0 else (B,)
    require_tensor("act_scale", act_scale, per_picture, [torch.float32], like=q)
    require_tensor("weight_scale", weight_scale, (N,), [torch.float32], like=q)
    if bias is not None:
        require_tensor("bias", bias, (N,), like=q)
    size = (B, 2 * H, 2 * W, N) if upsampled else (B, H, W, N)
    if residual is not None:
        require_tensor("residual", residual, size, like=q)
        require_contiguous("residual", residual)
    if shortcut is not None:
        if not upsampled or 4 * N % K:
            raise ValueError(
                f"a shortcut of {K} channels needs upsampled, and {4 * N} multiples of it"
            )
        require_tensor("shortcut", shortcut, q.shape, like=q)
        require_contiguous("shortcut", shortcut)
    if out_largest is not None:
        require_tensor("out_largest", out_largest, (B,), [torch.float32], like=q)
    require_contiguous("q", q)
    require_contiguous("weight", weight)
    if activation not in (None, "silu"):
        raise ValueError(f"activation is {activation!r}, not 'silu' or None")
    require_float("out_dtype", out_dtype)
    require_device(q)
    out = torch.empty(size, dtype=out_dtype, device=q.device)
    if out.numel():
        from quant.kernels.conv3x3_w8a8.kernel import launch

        M = out.numel() // N
        measured = measured_tile("conv3x3_w8a8", q.device, M, N, K)
        # Reading an enlarged map or a residual takes registers that WIDE's sums leave none of.
        plain = not upsampled and residual is None
        capability = capability_of(q.device) if plain else None
        tile = tile or measured or tile_for(CONV3X3_W8A8, M, N, K, capability=capability)
        launch(
            q, act_scale, weight, weight_scale, bias, residual, shortcut, out, out_largest,
            activation, tile,
        )  # fmt: skip
    return out
