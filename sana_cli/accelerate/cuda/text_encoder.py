"""Run Gemma-2 on a CUDA device in few launches: norms with the residual that follows some of them, and attention after a cache.

A short prompt's forward was some 1500 launches that take less time than Python needs to issue them: 577 for its 105 norms, 24 for
each layer's attention.
"""

# B texts, L tokens, C width, E head width

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from sana_cli.accelerate.cuda.kernels import REFERENCE, TRITON, Kernels
from sana_cli.accelerate.cuda.trial import Notice, Widths, trusted_kernels
from sana_cli.models.gemma2 import Gemma2, Gemma2Layer, Gemma2RMSNorm, KeyValues, rotations


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


class FusedTrunk:
    """`Gemma2.trunk` of one text that follows a cache, whose keys and values it does not keep. It holds the model weakly."""

    def __init__(self, model: Gemma2, kernels: Kernels) -> None:
        self._model, self.kernels = weakref.ref(model), kernels

    def __call__(self, x: Tensor, past: Sequence[KeyValues]) -> Tensor:
        """States (1, L, C) of embedded tokens x (1, L, C)."""
        model = self._model()
        assert model is not None
        turns = rotations(model.config, past[0][0].shape[2], x.shape[1], x)
        layers: list[Gemma2Layer] = list(model.layers)  # type: ignore[arg-type]
        for layer, (keys, values) in zip(layers, past, strict=True):
            attn = layer.self_attn
            h = layer.input_layernorm(x)[0]
            heads = self.kernels.softcap_attention(
                attn.q_proj(h), attn.k_proj(h), attn.v_proj(h), keys[0], values[0], *turns,
                scale=attn.scale, cap=attn.cap, window=attn.window,
            )  # fmt: skip
            x = layer.post_attention_layernorm(attn.o_proj(heads)[None], x)
            gated = layer.mlp(layer.pre_feedforward_layernorm(x))
            x = layer.post_feedforward_layernorm(gated, x)
        states: Tensor = model.norm(x)
        return states
