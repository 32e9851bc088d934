"""Join the four phases of a folded up-sampling: each is every second row and column of the result."""

# B batch, H x W positions before up-sampling, K channels before it, N after it

from collections.abc import Sequence

import torch
from torch import Tensor

from quant.kernels.checks import require_contiguous, require_device, require_tensor


def join_phases(
    phases: Sequence[Tensor], bias: Tensor | None, *, shortcut: Tensor | None = None
) -> Tensor:
    """(B, 2H, 2W, N): pixel (2y + i, 2x + j) is phases[2i + j][y + i, x + j] + bias + its part of the shortcut. fp32 sums.

    Phases (B, H + 1, W + 1, N): 2x2 convolutions with a border of zeros. The shortcut (B, H, W, K) is x of
    pixel_shuffle(x.repeat_interleave(4N / K, dim=1), 2), channels last: channel c of such a pixel is channel
    (4c + 2i + j) // (4N / K) of x.
    """
    first = phases[0]
    require_tensor("phases", first, (None, None, None, None))
    B, H, W, N = first.shape[0], first.shape[1] - 1, first.shape[2] - 1, first.shape[3]
    if len(phases) != 4:
        raise ValueError(f"there are {len(phases)} phases, not 4")
    for phase in phases:
        require_tensor("phases", phase, first.shape, [first.dtype], like=first)
        require_contiguous("phases", phase)
    if bias is not None:
        require_tensor("bias", bias, (N,), like=first)
    if shortcut is not None:
        require_tensor("shortcut", shortcut, (B, H, W, None), like=first)
        require_contiguous("shortcut", shortcut)
        if 4 * N % shortcut.shape[3]:
            raise ValueError(f"{shortcut.shape[3]} channels of the shortcut do not divide {4 * N}")
    require_device(first)
    out = torch.empty(B, 2 * H, 2 * W, N, dtype=first.dtype, device=first.device)
    if out.numel():
        from quant.kernels.join_phases.kernel import launch

        launch(phases, bias, shortcut, out)
    return out
