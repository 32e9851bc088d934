"""Run DC-AE's decoder on a CUDA device in fused kernels: norms with residual or activation, linear attention, the gated
feed-forward, and what follows convolutions (`convolution.py`).

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
from quant.layers import QuantConv2d
from sana_cli.accelerate.cuda.convolution import (
    Int8Convolution,
    convolution,
    first,
    folding_pays,
    last,
    marked,
    measured,
    up_block,
)
from sana_cli.accelerate.cuda.kernels import OF_DECODER, TRITON, Kernels
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
    UpBlock,
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
        candidates=candidates, names=OF_DECODER,
    )  # fmt: skip
    folds = folding_pays(weight.dtype, weight.device, verdicts=verdicts)

    def decide() -> str:
        generator = torch.Generator().manual_seed(0)
        shape = (1, config.latent_channels, _LATENT_SIDE, _LATENT_SIDE)
        latents = torch.randn(shape, generator=generator).to(weight)
        with torch.inference_mode(), exact_convolutions():
            expected = vae.decode(latents)

            def error() -> float:
                _replace_methods(vae, kernels, weight.dtype, folds=folds)
                return relative_error(vae.decode(latents), expected)

            return verdict(attempt(error), _TOLERANCE[weight.dtype])

    how = "folded" if folds else "whole"
    kind = (
        f"engine decoder {weight.dtype} {config.decoder_block_out_channels} {_schemes(vae)} {how}"
    )
    found = remembered(kind, weight.device, decide, verdicts=verdicts)
    if found == "right":
        _replace_methods(vae, kernels, weight.dtype, folds=folds)
        return True
    _restore_methods(vae)
    notice(f"the fused decoder {found} on this device; plain PyTorch runs instead")
    return False


def _schemes(vae: AutoencoderDC) -> str:
    """The kinds of convolutions that are tried together."""
    found = (m.config for m in vae.decoder.modules() if isinstance(m, QuantConv2d))
    return " ".join(sorted({str(config) for config in found}))


def _replace_methods(
    vae: AutoencoderDC, kernels: Kernels, dtype: torch.dtype, *, folds: bool
) -> None:
    """Attributes of the modules themselves, which go before those of their classes."""
    relu = vae.config.decoder_conv_act_fn == "relu"
    vars(vae.decoder)["normalize"] = _normalize(vae.decoder, kernels, relu=relu)
    for module in vae.decoder.modules():
        if isinstance(module, ResBlock):
            vars(module)["forward"] = _res_block(module, kernels)
        elif isinstance(module, UpBlock):
            forward = up_block(module, kernels, folds=folds)
            if forward is not None:
                vars(module)["forward"] = forward
        elif isinstance(module, NormedGLU):
            vars(module)["forward"] = _normed_glu(module, kernels, dtype)
        elif isinstance(module, MultiscaleLinearAttention):
            vars(module)["qkv"] = _qkv(module, kernels, dtype)
            vars(module)["finish"] = _finish(module, kernels, dtype)
            vars(module)["forward"] = _attention(module, kernels)


def _restore_methods(vae: AutoencoderDC) -> None:
    for module in vae.decoder.modules():
        for name in ("forward", "qkv", "finish", "normalize"):
            vars(module).pop(name, None)


def _norm(
    kernels: Kernels,
    norm: RMSNorm,
    x: Tensor,
    *,
    residual: Tensor | None = None,
    activation: Literal["relu"] | None = None,
    largest: Tensor | None = None,
) -> Tensor:
    """activation(norm(x)) + residual of (..., C), channels last; raises `largest` (B,), if it is given."""
    assert norm.bias is not None
    rows = (-1, 1, x.shape[-1])
    return kernels.rms_norm(
        x.contiguous().view(rows), norm.weight[None], eps=norm.eps, bias=norm.bias[None],
        activation=activation,
        residual=None if residual is None else residual.contiguous().view(rows),
        out_largest=largest,
    ).view(x.shape)  # fmt: skip


def _res_block(block: ResBlock, kernels: Kernels) -> Callable[[Tensor], Tensor]:
    conv1, conv2 = (convolution(layer, kernels) for layer in (block.conv1, block.conv2))
    act, norm = block.act, block.norm
    is_int8 = isinstance(conv2, Int8Convolution)

    def forward(x: Tensor) -> Tensor:
        given = measured(x)
        out = conv2(conv1(given, act, for_int8=is_int8)).values
        largest = out.new_zeros(len(out), dtype=torch.float32) if is_int8 else None
        return marked(_norm(kernels, norm, out, residual=given.values, largest=largest), largest)

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
        tokens = last(x).contiguous()
        hidden = up(tokens.flatten(0, 2), activation="silu")
        mixed = kernels.depthwise3x3_glu(
            hidden.view(*tokens.shape[:3], -1), weight, bias,
            activation=None if up.applies_silu else "silu",
        )  # fmt: skip
        out = down(mixed.view(len(hidden), -1)).view(tokens.shape)
        return first(_norm(kernels, norm, out, residual=tokens))

    return forward


def _qkv(
    module: MultiscaleLinearAttention, kernels: Kernels, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    parts = project([module.to_q, module.to_k, module.to_v], kernels, dtype)

    def qkv(tokens: Tensor) -> Tensor:
        rows = tokens.contiguous().view(-1, tokens.shape[-1])
        products = [part(rows) for part in parts]  # one of (M, 3C) or three of (M, C)
        joined = products[0] if len(products) == 1 else torch.cat(products, dim=-1)
        return joined.view(*tokens.shape[:-1], -1)

    return qkv


def _finish(
    module: MultiscaleLinearAttention, kernels: Kernels, dtype: torch.dtype
) -> Callable[[Tensor, Tensor], Tensor]:
    (to_out,) = project([module.to_out], kernels, dtype)
    norm = module.norm_out

    def finish(x: Tensor, attended: Tensor) -> Tensor:
        residual = last(x)
        out = to_out(attended.reshape(residual.numel() // residual.shape[-1], -1))
        return first(_norm(kernels, norm, out.view(residual.shape), residual=residual))

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
            return first(_norm(kernels, norm, last(x), activation="relu"))
        return act(first(_norm(kernels, norm, last(x))))

    return normalize
