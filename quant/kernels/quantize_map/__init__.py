"""Maps of floats become int8 with one scale a picture, as they lie: channels last."""

# B pictures, V values of a picture

import torch
from torch import Tensor

from quant.kernels.checks import require_contiguous, require_device, require_tensor


def quantize_map(
    x: Tensor, *, scale: Tensor | None = None, largest: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x (B, ...) contiguous -> int8 of the same shape, and fp32 scales: `scale` () for all, or (B,) by the largest magnitudes.

    `largest` (B,) fp32 are the pictures' magnitudes where whoever wrote x knows them; otherwise one more launch looks for
    them. A picture with a NaN gets the scale NaN.
    """
    require_tensor("x", x, (None,) * x.ndim)
    require_contiguous("x", x)
    B = x.shape[0] if x.ndim else 0
    if scale is not None:
        require_tensor("scale", scale, (), [torch.float32], like=x)
    if largest is not None:
        require_tensor("largest", largest, (B,), [torch.float32], like=x)
    require_device(x)
    q = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    scales = torch.empty(B, dtype=torch.float32, device=x.device) if scale is None else scale
    if x.numel():
        from quant.kernels.quantize_map.kernel import launch

        launch(x, scale, largest, q, scales)
    return q, scales
