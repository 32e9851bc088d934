"""Run DC-AE's decoder on a CUDA device in fused kernels: norms with residual or activation, linear
attention and the gated feed-forward. Convolutions stay torch's, or those of their quantized layers.

Blocks get other methods, not other weights; decoding in tiles or whole runs the same ones. A method
holds what it runs and not its block: without cycles, a decoder is freed at once.
"""

# B batch, C channels, H x W positions, E head width

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from quant.backends.attempt import attempt
from quant.backends.verdicts import remembered
from quant.kernels.depthwise3x3_glu import repack
from sana_cli.accelerate.cuda.kernels import TRITON, Kernels
from sana_cli.accelerate.cuda.projection import project
from sana_cli.accelerate.cuda.trial import (
    Notice,
    Widths,
    exact_convolutions,
    relative_error,
    trusted_kernels,
    verdict,
)
from sana_cli.models.dc_ae import (
    AutoencoderDC,
    Decoder,
    MultiscaleLinearAttention,
    NormedGLU,
    ResBlock,
    relu_quadratic_attention,
)
from sana_cli.models.layers import RMSNorm

_LATENT_SIDE = 8  # of the picture that is decoded for comparison
# Of the decoded picture's norm; as for the velocity, quantized inputs of convolutions included.
_TOLERANCE = {torch.float32: 0.02, torch.float16: 0.05, torch.bfloat16: 0.1}


def fuse_decoder(
    vae: AutoencoderDC,
    *,
    notice: Notice,
    verdicts: Path | None = None,
    candidates: Kernels = TRITON,
) -> bool:
    """Give the decoder's blocks fused methods; False, with a notice, where it then decodes something else."""
    config, weight = vae.config, vae.decoder.norm_out.weight
    wide = config.decoder_block_out_channels[-1]
    widths = Widths(wide, 4 * wide, config.attention_head_dim, config.attention_head_dim)
    kernels = trusted_kernels(
        widths, weight.dtype, weight.device, verdicts=verdicts, notice=notice,
        candidates=candidates,
    )  # fmt: skip

    def decide() -> str:
        generator = torch.Generator().manual_seed(0)
        shape = (1, config.latent_channels, _LATENT_SIDE, _LATENT_SIDE)
        latents = torch.randn(shape, generator=generator).to(weight)
        with torch.inference_mode(), exact_convolutions():
            expected = vae.decode(latents)

            def error() -> float:
                _replace_methods(vae, kernels, weight.dtype)
                return relative_error(vae.decode(latents), expected)

            return verdict(attempt(error), _TOLERANCE[weight.dtype])

    kind = f"engine decoder {weight.dtype} {config.decoder_block_out_channels}"
    found = remembered(kind, weight.device, decide, verdicts=verdicts)
    if found == "right":
        _replace_methods(vae, kernels, weight.dtype)
        return True
    _restore_methods(vae)
    notice(f"the fused decoder {found} on this device; plain PyTorch runs instead")
    return False


def _replace_methods(vae: AutoencoderDC, kernels: Kernels, dtype: torch.dtype) -> None:
    """Attributes of the modules themselves, which go before those of their classes."""
    relu = vae.config.decoder_conv_act_fn == "relu"
    vars(vae.decoder)["normalize"] = _normalize(vae.decoder, kernels, relu=relu)
    for module in vae.decoder.modules():
        if isinstance(module, ResBlock):
            vars(module)["forward"] = _res_block(module, kernels)
        elif isinstance(module, NormedGLU):
            vars(module)["forward"] = _normed_glu(module, kernels, dtype)
        elif isinstance(module, MultiscaleLinearAttention):
            vars(module)["finish"] = _finish(module, kernels)
            vars(module)["forward"] = _attention(module, kernels)


def _restore_methods(vae: AutoencoderDC) -> None:
    for module in vae.decoder.modules():
        for name in ("forward", "finish", "normalize"):
            vars(module).pop(name, None)


def _norm(
    kernels: Kernels,
    norm: RMSNorm,
    x: Tensor,
    *,
    residual: Tensor | None = None,
    activation: Literal["relu"] | None = None,
) -> Tensor:
    """activation(norm(x)) + residual of (..., C), channels last."""
    assert norm.bias is not None
    rows = (-1, 1, x.shape[-1])
    return kernels.rms_norm(
        x.contiguous().view(rows), norm.weight[None], eps=norm.eps, bias=norm.bias[None],
        activation=activation,
        residual=None if residual is None else residual.contiguous().view(rows),
    ).view(x.shape)  # fmt: skip


def _last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), a view."""
    return x.permute(0, 2, 3, 1)


def _first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), a view."""
    return x.permute(0, 3, 1, 2)


def _res_block(block: ResBlock, kernels: Kernels) -> Callable[[Tensor], Tensor]:
    conv1, act, conv2, norm = block.conv1, block.act, block.conv2, block.norm

    def forward(x: Tensor) -> Tensor:
        return _first(_norm(kernels, norm, _last(conv2(act(conv1(x)))), residual=_last(x)))

    return forward


def _normed_glu(
    module: NormedGLU, kernels: Kernels, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    (up,) = project([module.conv_inverted], kernels, dtype)
    (down,) = project([module.conv_point], kernels, dtype)
    assert module.conv_depth.bias is not None
    weight, bias = repack(module.conv_depth.weight.detach()), module.conv_depth.bias.detach()
    norm = module.norm

    def forward(x: Tensor) -> Tensor:
        tokens = _last(x).contiguous()
        hidden = up(tokens.flatten(0, 2), activation="silu")
        mixed = kernels.depthwise3x3_glu(
            hidden.view(*tokens.shape[:3], -1), weight, bias,
            activation=None if up.applies_silu else "silu",
        )  # fmt: skip
        out = down(mixed.view(len(hidden), -1)).view(tokens.shape)
        return _first(_norm(kernels, norm, out, residual=tokens))

    return forward


def _finish(
    module: MultiscaleLinearAttention, kernels: Kernels
) -> Callable[[Tensor, Tensor], Tensor]:
    to_out, norm = module.to_out, module.norm_out

    def finish(x: Tensor, attended: Tensor) -> Tensor:
        out = to_out(attended.flatten(-2))
        return _first(_norm(kernels, norm, out, residual=_last(x)))

    return finish


def _attention(module: MultiscaleLinearAttention, kernels: Kernels) -> Callable[[Tensor], Tensor]:
    attention = weakref.proxy(module)

    def forward(x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        q, k, v = (t.flatten(1, 2) for t in attention.project(x))  # (B, N, heads, E)
        linear = attention.is_linear(H * W)
        attend = kernels.relu_linear_attention if linear else relu_quadratic_attention
        return attention.finish(x, attend(q, k, v).unflatten(1, (H, W)))

    return forward


def _normalize(decoder: Decoder, kernels: Kernels, *, relu: bool) -> Callable[[Tensor], Tensor]:
    norm, act = decoder.norm_out, decoder.act

    def normalize(x: Tensor) -> Tensor:
        if relu:
            return _first(_norm(kernels, norm, _last(x), activation="relu"))
        return act(_first(_norm(kernels, norm, _last(x))))

    return normalize
