"""Pack 4-bit values into bytes, on disk and in memory: two to a byte, the even channel low.

Plain and the same on every machine; kernels that want another order make it when they load.
"""

# N output channels, K input channels

import torch
from torch import Tensor


def pack_int4(q_NK: Tensor) -> Tensor:
    """int8 values -8..7 (N, K) -> uint8 (N, ceil(K/2)), each stored plus 8."""
    stored = (q_NK.to(torch.int16) + 8).to(torch.uint8)
    if stored.shape[1] % 2:
        stored = torch.nn.functional.pad(stored, (0, 1), value=8)
    return stored[:, 0::2] | (stored[:, 1::2] << 4)


def unpack_int4(packed: Tensor, in_channels: int) -> Tensor:
    """The inverse of `pack_int4`: int8 (N, in_channels)."""
    pairs = torch.stack([packed & 0xF, packed >> 4], dim=-1).flatten(1)
    return (pairs[:, :in_channels].to(torch.int8)) - 8
