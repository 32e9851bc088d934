"""Run the norms of Gemma-2 on a CUDA device in one launch each, with the residual that follows some of them.

A short prompt's forward is some 1500 launches that take less time than Python needs to issue them; its 105 norms were 577 of them.
"""

# B texts, L tokens, C width

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from sana_cli.accelerate.cuda.kernels import REFERENCE, TRITON, Kernels
from sana_cli.accelerate.cuda.trial import Notice, Widths, trusted_kernels
from sana_cli.models.gemma2 import Gemma2RMSNorm


def fuse_norms(
    model: nn.Module,
    *,
    notice: Notice,
    verdicts: Path | None = None,
    candidates: Kernels = TRITON,
) -> bool:
    """Give every norm of a text encoder, or of a block of it, a fused forward; False where there is none, or no kernel."""
    norms = [m for m in model.modules() if isinstance(m, Gemma2RMSNorm)]
    if not norms:
        return False
    weight = norms[0].weight
    C = len(weight)
    kernels = trusted_kernels(
        Widths(C, C, min(C, 32), min(C, 32)), weight.dtype, weight.device, verdicts=verdicts,
        notice=notice, candidates=candidates, names=("rms_norm",),
    )  # fmt: skip
    if kernels.rms_norm is REFERENCE.rms_norm and candidates is not REFERENCE:
        return False
    fuse_norms_with(kernels, model)
    return True


def fuse_norms_with(kernels: Kernels, model: nn.Module) -> None:
    """Give every norm a forward by these kernels, which are not tried."""
    for norm in model.modules():
        if isinstance(norm, Gemma2RMSNorm):
            vars(norm)["forward"] = _fused(norm, kernels)


def _fused(norm: Gemma2RMSNorm, kernels: Kernels) -> Callable[..., Tensor]:
    scale, eps = (norm.weight.detach().float() + 1)[None], norm.eps  # (1, C)

    def forward(x: Tensor, residual: Tensor | None = None) -> Tensor:
        rows = (-1, 1, x.shape[-1])
        return kernels.rms_norm(
            x.contiguous().view(rows), scale, eps=eps,
            residual=None if residual is None else residual.contiguous().view(rows),
        ).view(x.shape)  # fmt: skip

    return forward
