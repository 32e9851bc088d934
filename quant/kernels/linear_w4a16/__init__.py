"""16-bit inputs times group-wise int4 weights, which become floats in registers only."""

# M rows (tokens), K input channels, N output channels, G groups of input channels

from dataclasses import dataclass

import torch
from torch import Tensor

from quant.kernels.checks import require_contiguous, require_device, require_float, require_tensor
from quant.kernels.measured_tiles import measured_tile
from quant.kernels.tiles import LINEAR_W4A16, Tile, tile_for
from quant.packing import pack_int4, unpack_int4


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedWeight:
    """A stored int4 weight in the kernel's order, made once when it is loaded.

    A byte holds channel c of its group low and channel c + group_size / 2 high, so that both nibbles
    of a row of bytes meet neighbouring inputs. What one program reads of a group lies together.
    """

    packed: Tensor  # uint8 (G, N, group_size / 2)
    scale: Tensor  # bf16 (G, N)
    in_features: int
    group_size: int


def repack(qweight: Tensor, scale: Tensor, *, in_features: int, group_size: int) -> GroupedWeight:
    """Convert from `quant.packing`'s layout: qweight uint8 (N, ceil(K/2)) and scale bf16 (N, G)."""
    if group_size not in (32, 64, 128):
        raise ValueError(f"group size is {group_size}; the kernel takes 32, 64 or 128")
    require_tensor("qweight", qweight, (None, -(-in_features // 2)), [torch.uint8])
    N, G = len(qweight), -(-in_features // group_size)
    require_tensor("scale", scale, (N, G), [torch.bfloat16], like=qweight)
    q_NK = unpack_int4(qweight, in_features)
    padded = torch.nn.functional.pad(q_NK, (0, G * group_size - in_features))
    halves = padded.view(N, G, 2, group_size // 2).permute(1, 0, 3, 2)  # (G, N, group / 2, 2)
    packed = pack_int4(halves.flatten(0, 1).flatten(1))  # (G * N, group / 2)
    return GroupedWeight(
        packed=packed.view(G, N, group_size // 2),
        scale=scale.T.contiguous(),
        in_features=in_features,
        group_size=group_size,
    )


def linear_w4a16(
    x: Tensor,
    weight: GroupedWeight,
    *,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """x W^T + bias as (M, N), summed in fp32; x (M, K) bf16 or fp16, the result like x by default.

    Weights are not rounded to x's type, as the dequantized weight of `QuantLinear` is: a group is
    summed with its integers, which are exact, and its scale applied to the sum.
    """
    require_tensor("x", x, (None, weight.in_features), [torch.bfloat16, torch.float16])
    M, K = x.shape
    G, N, half = weight.packed.shape
    if (G, half) != (-(-K // weight.group_size), weight.group_size // 2):
        raise ValueError(f"weight has {G} groups of {half} bytes, which do not hold {K} channels")
    require_tensor("packed weight", weight.packed, (G, N, half), [torch.uint8], like=x)
    require_tensor("weight scale", weight.scale, (G, N), [torch.bfloat16], like=x)
    require_contiguous("packed weight", weight.packed)
    require_contiguous("weight scale", weight.scale)
    if bias is not None:
        require_tensor("bias", bias, (N,), like=x)
    out_dtype = x.dtype if out_dtype is None else out_dtype
    require_float("out_dtype", out_dtype)
    require_device(x)
    out = torch.empty(M, N, dtype=out_dtype, device=x.device)
    if out.numel():
        from quant.kernels.linear_w4a16.kernel import launch

        tile = tile or measured_tile("linear_w4a16", x.device, M, N, K)
        launch(x, weight, bias, out, tile or tile_for(LINEAR_W4A16, M, N, K))
    return out
