"""The work of each stage of a picture, from the configuration alone: operations, bytes, kernel launches. No torch.

FLOPs count two for a multiply-add of matrix products and convolutions, nothing else, as torch's FlopCounterMode does.
Bytes are a floor: weights once a pass, and each product's inputs and outputs once, everything between products fused.
"""

# B rows of a batch, N image tokens, L text tokens, D width, F half of the Mix-FFN's hidden width

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sana_cli.config.networks import DCAEConfig, TinyDecoderConfig, TransformerConfig

# Kernels of one block in w8a8 on the CUDA engine (docs/engine.md).
ENGINE_BLOCK = (
    "norm + modulate + quantize",
    "q, k, v in one product",
    "linear attention",
    "quantize",
    "output product + gate + residual + largest of each token",
    "quantize + query product + cross-attention + largest of each token",
    "quantize + output product + residual",
    "norm + modulate + quantize",
    "inverted product + SiLU",
    "depthwise 3x3 + GLU",
    "quantize",
    "point product + gate + residual",
)
# Around the blocks, each step: patch embedding, two timestep layers, its modulation, the last norm and projection,
# guidance and the sampler's two updates.
_PLANNED_AROUND = 9
_PLANNED_A_CONV = 2  # with its bias and activation, and the norm and residual after it
_PLANNED_A_GEMMA_LAYER = 8

# Gemma-2-2b's shape (its published config.json).
GEMMA_2_2B: dict[str, Any] = {
    "architectures": ["Gemma2Model"], "model_type": "gemma2", "vocab_size": 256000,
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "query_pre_attn_scalar": 256, "sliding_window": 4096, "max_position_embeddings": 8192,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": 2, "torch_dtype": "bfloat16",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Precisions:
    """Bytes of a stored weight and of an activation, and which arithmetic multiplies them."""

    weight_bytes: float = 4
    act_bytes: float = 4
    arithmetic: str = "fp32"  # fp32, bf16, fp16 or int8: which ceiling counts


FP32 = Precisions()
BF16 = Precisions(weight_bytes=2, act_bytes=2, arithmetic="bf16")
INT8 = Precisions(weight_bytes=1, act_bytes=2, arithmetic="int8")


@dataclass(frozen=True, slots=True)
class Work:
    """Operations, bytes and launches of a stage; adds up. `launches` counts those of the CUDA engine."""

    flops: float = 0
    bytes: float = 0
    launches: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.flops + other.flops, self.bytes + other.bytes, self.launches + other.launches
        )

    def __mul__(self, times: int) -> "Work":
        return Work(self.flops * times, self.bytes * times, self.launches * times)


def product(rows: int, k: int, n: int, kind: Precisions) -> Work:
    """(rows, k) @ (k, n): weights and both activations once."""
    moved = k * n * kind.weight_bytes + rows * (k + n) * kind.act_bytes
    return Work(2 * rows * k * n, moved, 1)


def convolution(rows: int, k: int, n: int, kind: Precisions, taps: int = 9) -> Work:
    """Count a convolution with `taps` positions, k channels to n, and `rows` results."""
    moved = k * n * taps * kind.weight_bytes + rows * (k + n) * kind.act_bytes
    return Work(2 * rows * taps * k * n, moved, _PLANNED_A_CONV)


def _mixing(rows: int, k: int, n: int, kind: Precisions) -> Work:
    """A product of two activations: no weights, and its inputs count where they are made."""
    return Work(2 * rows * k * n, rows * n * kind.act_bytes, 1)


def denoise_step(
    config: TransformerConfig,
    *,
    height: int,
    width: int,
    text_tokens: Sequence[int],
    batch: int = 1,
    kind: Precisions = FP32,
) -> Work:
    """Count one pass of the Linear-DiT. Sizes in pixels; `text_tokens` has an entry per guidance
    branch.

    A branch of one text token (an empty negative prompt) has a constant instead of cross-attention.
    """
    D, F = config.inner_dim, config.ff_dim
    N = height // 32 * (width // 32)
    rows = batch * len(text_tokens) * N
    block = linear_attention(config, rows, kind) + product(rows, D, D, kind)
    for L in text_tokens:
        if L > 1:
            seen = batch * N
            block += product(seen, D, D, kind) + product(seen, D, D, kind)
            block += _mixing(seen, D, L, kind) + _mixing(seen, L, D, kind)
    block += product(rows, D, 2 * F, kind) + product(rows, F, D, kind)
    block += Work(2 * 9 * rows * 2 * F, rows * 3 * F * kind.act_bytes)
    branches = batch * len(text_tokens)
    around = product(rows, config.in_channels, D, kind) + product(
        rows, D, config.out_channels, kind
    )
    embedders = 2 if config.guidance_embeds else 1
    around += (product(branches, 256, D, kind) + product(branches, D, D, kind)) * embedders
    around += product(branches, D, 6 * D, kind)
    total = block * config.num_layers + around
    launches = len(ENGINE_BLOCK) * config.num_layers + _PLANNED_AROUND
    return Work(total.flops, total.bytes, launches)


def linear_attention(config: TransformerConfig, rows: int, kind: Precisions) -> Work:
    """Count a block's self-attention up to its output product."""
    D, E = config.inner_dim, config.attention_head_dim
    projections = product(rows, D, 3 * D, kind)
    # Keys times values, then queries times their sums and times the keys' sums.
    return projections + _mixing(rows, E, D, kind) * 2 + _mixing(rows, 1, D, kind)


def text_keys(
    config: TransformerConfig,
    text_tokens: Sequence[int],
    *,
    batch: int = 1,
    kind: Precisions = FP32,
) -> Work:
    """Count `encode_text`, once a prompt: projection, and every block's keys and values (a constant
    for one token).
    """
    D, total = config.inner_dim, Work()
    for L in text_tokens:
        rows = batch * L
        total += product(rows, config.caption_channels, D, kind) + product(rows, D, D, kind)
        total += product(rows, D, D, kind) * (2 * config.num_layers)
    return total


def decode(
    config: DCAEConfig | TinyDecoderConfig,
    *,
    height: int,
    width: int,
    batch: int = 1,
    kind: Precisions = FP32,
    folded: bool = False,
) -> Work:
    """Count a decoder. `folded`: convolutions after up-sampling as four 2x2 ones, 16 products for 36."""
    if isinstance(config, TinyDecoderConfig):
        return _tiny_decode(config, batch * height * width, kind, folded=folded)
    channels, layers = config.decoder_block_out_channels, config.decoder_layers_per_block
    last = len(channels) - 1

    def rows(stage: int) -> int:
        return batch * (height >> stage) * (width >> stage)

    def conv(stage: int, k: int, n: int, taps: int = 9) -> Work:
        return convolution(rows(stage), k, n, kind, taps)

    total = conv(last, config.latent_channels, channels[last])
    for stage in range(last, -1, -1):
        C = channels[stage]
        if stage < last and layers[stage]:
            if config.upsample_block_type == "interpolate":
                total += conv(stage, channels[stage + 1], C, 4 if folded else 9)
            else:
                total += conv(stage + 1, channels[stage + 1], 4 * C)
        if config.decoder_stage_types[stage] == "ResBlock":
            block = conv(stage, C, C) * 2
        else:
            scales = config.decoder_qkv_multiscales[stage]
            block = efficient_vit(config.attention_head_dim, scales, C, rows(stage), kind)
        total += block * layers[stage]
    if layers[0]:
        return total + conv(0, channels[0], config.in_channels)
    return total + conv(0, channels[1], config.in_channels, 4 if folded else 9)


def _tiny_decode(config: TinyDecoderConfig, pixels: int, kind: Precisions, *, folded: bool) -> Work:
    """Count a decoder of convolutions alone; `pixels` of all pictures together."""
    total, before = Work(), config.latent_channels
    for i, (width, blocks) in enumerate(zip(config.widths, config.blocks, strict=True)):
        rows = pixels >> 2 * (5 - i)
        taps = 4 if folded and i else 9
        for k, n, size in [(before, width, taps), *[(width, width, 9)] * (3 * blocks)]:
            total += convolution(rows, k, n, kind, size)
        before = width
    outputs = 3 * config.patch_size**2
    return total + convolution(rows, before, outputs, kind)


def efficient_vit(E: int, scales: Sequence[int], C: int, rows: int, kind: Precisions) -> Work:
    """Count a block of DC-AE with attention: heads of E channels, depthwise convolutions of `scales`, C channels."""
    total = product(rows, C, 3 * C, kind)
    for size in scales:
        total += Work(2 * rows * size * size * 3 * C, rows * 6 * C * kind.act_bytes, 1)
        # Groups of E channels.
        total += Work(2 * rows * E * 3 * C, rows * 6 * C * kind.act_bytes, 1)
    wide = C * (1 + len(scales))
    total += (
        _mixing(rows, E, wide, kind) + _mixing(rows, E, wide, kind) + _mixing(rows, 1, wide, kind)
    )
    total += product(rows, wide, C, kind) + product(rows, C, 8 * C, kind)
    total += Work(2 * 9 * rows * 8 * C, rows * 12 * C * kind.act_bytes, 1)
    return total + product(rows, 4 * C, C, kind)


def encode_texts(
    config: Mapping[str, Any], text_tokens: Sequence[int], *, kind: Precisions = FP32
) -> Work:
    """Gemma-2's trunk over texts of so many tokens; `config` is text_encoder/config.json."""
    C, hidden = int(config["hidden_size"]), int(config["intermediate_size"])
    heads, kv_heads = int(config["num_attention_heads"]), int(config["num_key_value_heads"])
    E, total = int(config["head_dim"]), Work()
    for L in text_tokens:
        layer = product(L, C, (heads + 2 * kv_heads) * E, kind) + product(L, heads * E, C, kind)
        layer += _mixing(L, heads * E, L, kind) + _mixing(L, L, heads * E, kind)
        layer += product(L, C, 2 * hidden, kind) + product(L, hidden, C, kind)
        total += layer * int(config["num_hidden_layers"])
    launches = _PLANNED_A_GEMMA_LAYER * int(config["num_hidden_layers"]) * len(text_tokens)
    return Work(total.flops, total.bytes, launches)
