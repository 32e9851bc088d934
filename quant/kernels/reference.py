"""What the fused kernels compute beyond `primitives.py`, in plain PyTorch: slow, obvious, on any device."""

# M rows (tokens), K input channels, N output channels, B batch, H x W pixels

import torch
from torch import Tensor
from torch.nn import functional as F

from quant.primitives import int8_matmul


def linear_w8a8(
    q_MK: Tensor,
    scale_M: Tensor,
    weight_NK: Tensor,
    scale_N: Tensor,
    *,
    bias: Tensor | None = None,
    activation: str | None = None,
    gate_BN: Tensor | None = None,
    residual_MN: Tensor | None = None,
    out_dtype: torch.dtype,
) -> Tensor:
    """(M, N): int32 sums, both scales, then bias, activation, gate and residual in fp32."""
    sums = int8_matmul(q_MK, weight_NK).float()
    out = _finish(sums * scale_M[:, None] * scale_N, bias, activation)
    if gate_BN is not None:
        out = out * gate_BN.float().repeat_interleave(len(out) // len(gate_BN), dim=0)
    if residual_MN is not None:
        out = out + residual_MN.float()
    return out.to(out_dtype)


def conv3x3_w8a8(
    q_BHWK: Tensor,
    act_scale: Tensor,
    weight_NKhw: Tensor,
    scale_N: Tensor,
    *,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual_BHWN: Tensor | None = None,
    out_dtype: torch.dtype,
) -> Tensor:
    """(B, H, W, N): a 3x3 convolution with stride 1 and a border of zeros; sums are exact in fp64."""
    q_BKHW = q_BHWK.permute(0, 3, 1, 2).double()
    sums = F.conv2d(q_BKHW, weight_NKhw.double(), padding=1).float().permute(0, 2, 3, 1)
    scale_BN = act_scale.expand(len(q_BHWK))[:, None] * scale_N
    out = _finish(sums * scale_BN[:, None, None], bias, activation)
    if residual_BHWN is not None:
        out = out + residual_BHWN.float()
    return out.to(out_dtype)


def _finish(out: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    if bias is not None:
        out = out + bias.float()
    return F.silu(out) if activation == "silu" else out
