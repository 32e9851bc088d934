"""ReLU linear attention over all positions of a picture (arXiv 2410.10629, section 2.3)."""

# B batch, N positions, H heads, E head width

import torch
from torch import Tensor

from quant.kernels.checks import require_device, require_tensor

MAX_E = 32  # the sums of a head, E x E, are held in the registers of one program


def relu_linear_attention(q: Tensor, k: Tensor, v: Tensor, *, eps: float = 1e-15) -> Tensor:
    """relu(q) (relu(k)^T v) / (relu(q) sum(relu(k)) + eps) for every head, (B, N, H, E) dense.

    q, k, v (B, N, H, E) of one type; they may be slices of one tensor. Sums are fp32 and start with the
    first position, so that a result does not depend on the device.
    """
    require_tensor("q", q, (None, None, None, None))
    E = q.shape[-1]
    if not 0 < E <= MAX_E:
        raise ValueError(f"q has heads of {E} channels, not 1 to {MAX_E}")
    require_tensor("k", k, q.shape, [q.dtype], like=q)
    require_tensor("v", v, q.shape, [q.dtype], like=q)
    require_device(q)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if out.numel():
        from quant.kernels.relu_linear_attention.kernel import launch

        launch(q, k, v, out, eps)
    return out
