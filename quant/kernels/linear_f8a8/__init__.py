"""8-bit floats times 8-bit floats by torch's own product (cuBLASLt, CUTLASS), which takes a scale per row and per column."""

# M rows (tokens), K input channels, N output channels

import torch
from torch import Tensor

from quant.kernels.checks import require_float, require_tensor

FLOAT8 = (torch.float8_e4m3fn,)


def linear_f8a8(
    q: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    *,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """q W^T * scale * weight_scale + bias, as (M, N) of `out_dtype`.

    q (M, K) and weight (N, K) e4m3; scale (M,) and weight_scale (N,) fp32, as `quantize_per_token` and the scheme give
    them; bias (N,). Sums are fp32. K and N must be multiples of 16. The product writes bf16, so other types are rounded
    to it in between.
    """
    require_tensor("q", q, (None, None), FLOAT8)
    M, K = q.shape
    require_tensor("weight", weight, (None, K), FLOAT8, like=q)
    N = weight.shape[0]
    if K % 16 or N % 16:
        raise ValueError(f"weight is {N} x {K}, not multiples of 16")
    require_tensor("scale", scale, (M,), [torch.float32], like=q)
    require_tensor("weight_scale", weight_scale, (N,), [torch.float32], like=q)
    if bias is not None:
        require_tensor("bias", bias, (N,), like=q)
    require_float("out_dtype", out_dtype)
    if not M:
        return torch.empty(0, N, dtype=out_dtype, device=q.device)
    out = torch._scaled_mm(
        q, weight.T, scale_a=scale[:, None], scale_b=weight_scale[None],
        bias=None if bias is None else bias.bfloat16(), out_dtype=torch.bfloat16,
        use_fast_accum=q.device.type == "cuda",  # sums of 22 bits: far below what 8 bits of inputs cost
    )  # fmt: skip
    return out.to(out_dtype)
