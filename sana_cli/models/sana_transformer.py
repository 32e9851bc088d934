"""Sana's Linear-DiT (arXiv 2410.10629): velocity prediction on DC-AE latents.

What depends on the prompt alone (caption projection, cross-attention keys and values) is computed
once by `encode_text` and reused over all steps. A batch is split over its contexts in order, so the
unconditional and the conditional branch each attend over their own true text length: no padding.
"""

# B batch, N image tokens (h*w, row-major), L text tokens, D width, H heads, E head width

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant.native import rows as native
from sana_cli.config.networks import TransformerConfig
from sana_cli.models.block_cache import FirstBlockCache
from sana_cli.models.layers import (
    DepthwiseGLU,
    PointwiseConv2d,
    RMSNorm,
    SeldomLinear,
    relu_linear_attention,
)

FINAL_EPS = 1e-6  # of the norm before the last layer
_SINUSOID_WIDTH = 256


@dataclass(frozen=True, slots=True)
class TextContext:
    """Text keys and values of one or more prompts, per block, as cross-attention reads them.

    `keys` and `values` hold (B, H, L, E) tensors, one a block. With a single text token the softmax
    is 1 and the attention's output a constant: then `constants` holds (B, 1, D) tensors instead.
    """

    batch: int
    keys: list[Tensor]
    values: list[Tensor]
    constants: list[Tensor]
    mask: Tensor | None = None  # (B, 1, 1, L) bool, True where a text token is real
    control: "TextContext | None" = None  # the same prompts as the blocks of a ControlNet read them


class Engine(Protocol):
    """Another way to compute the velocity, as `SanaTransformer2D.velocity` describes it."""

    summary: str  # what it runs on, and what preparing it took

    def velocity(
        self,
        latents: Tensor,
        timestep: float,
        contexts: Sequence[TextContext],
        guidance: float | None,
        perturbed_layer: int | None = None,
        control: "Control | None" = None,
        caches: Sequence[FirstBlockCache] = (),
    ) -> Tensor: ...


class ControlStep(Protocol):
    """Adds what a control picture makes of the tokens of one step (`models/controlnet.py`)."""

    def after(self, layer: int, x: Tensor) -> Tensor:
        """Take the tokens (B, N, D) after block `layer`; return those that the next block reads."""
        ...

    def of(self, some: Sequence[int]) -> "ControlStep":
        """The same step of these contexts alone; before block 0."""
        ...


class Control(Protocol):
    """A control picture, ready to act on every step."""

    def begin(
        self, latents: Tensor, timestep: Tensor, contexts: Sequence[TextContext]
    ) -> ControlStep:
        """Begin a step at latents (B, C, h, w) and timestep (B,); `contexts` hold `control`."""
        ...


class LinearAttention(nn.Module):
    """Self-attention of a block: ReLU linear attention, with RMSNorm on q and k in SANA-1.5."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        D = config.inner_dim
        self.head_dim = config.attention_head_dim
        self.to_q = nn.Linear(D, D, bias=config.attention_bias)
        self.to_k = nn.Linear(D, D, bias=config.attention_bias)
        self.to_v = nn.Linear(D, D, bias=config.attention_bias)
        self.to_qkv: nn.Module | None = None  # all three in one, where `fusing` has joined them
        self.to_out = nn.ModuleList([nn.Linear(D, D)])
        self.norm_q = RMSNorm(D) if config.qk_norm else None
        self.norm_k = RMSNorm(D) if config.qk_norm else None

    def forward(self, x: Tensor, perturbed: int = 0) -> Tensor:
        """Attend within each row of (B, N, D); the last `perturbed` rows once more, each token to itself alone.

        Such a row's attention is its values (perturbed-attention guidance, arXiv 2403.17377): (B + perturbed, N, D).
        """
        if self.to_qkv is not None:
            q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        else:
            q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        heads = (-1, self.head_dim)
        q, k, v = q.unflatten(-1, heads), k.unflatten(-1, heads), v.unflatten(-1, heads)
        attended = relu_linear_attention(q, k, v).flatten(-2)
        if perturbed:
            attended = torch.cat([attended, v[-perturbed:].flatten(-2)])
        out = self.to_out[0](attended)
        if out.dtype == torch.float16:
            out = out.clip(-65504, 65504)
        return out


class CrossAttention(nn.Module):
    """Softmax attention from image tokens to text tokens. The query input is not normalised."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        D = config.inner_dim
        self.heads = (config.num_cross_attention_heads, config.cross_attention_head_dim)
        self.to_q = nn.Linear(D, D)
        self.to_k = SeldomLinear(D, D)
        self.to_v = SeldomLinear(D, D)
        self.to_out = nn.ModuleList([nn.Linear(D, D)])
        self.norm_q = RMSNorm(D) if config.qk_norm else None
        self.norm_k = RMSNorm(D) if config.qk_norm else None

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, D) -> keys and values (B, H, L, E)."""
        k, v = self.to_k(text), self.to_v(text)
        if self.norm_k is not None:
            k = self.norm_k(k)
        k, v = k.unflatten(-1, self.heads), v.unflatten(-1, self.heads)
        return k.transpose(1, 2), v.transpose(1, 2)

    def constant(self, text: Tensor) -> Tensor:
        """The output for a text of one token (B, 1, D): softmax over one key is 1."""
        return self.to_out[0](self.to_v(text))

    def forward(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q = self.to_q(x)
        if self.norm_q is not None:
            q = self.norm_q(q)
        q = q.unflatten(-1, self.heads).transpose(1, 2)  # (B, H, N, E)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out[0](out.transpose(1, 2).flatten(-2))


class SanaBlock(nn.Module):
    """Linear attention, cross-attention and Mix-FFN, modulated by the shared timestep embedding."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        D = config.inner_dim
        self.norm_eps = config.norm_eps
        self.attn1 = LinearAttention(config)
        self.attn2 = CrossAttention(config)
        self.ff = DepthwiseGLU(D, config.ff_dim)
        self.scale_shift_table = nn.Parameter(torch.zeros(6, D))

    def forward(
        self,
        x: Tensor,
        t6: Tensor,
        contexts: Sequence[TextContext],
        layer: int,
        grid: tuple[int, int],
        perturbed: int = 0,
    ) -> Tensor:
        """Tokens (B, N, D) after the block; with `perturbed` (B + perturbed, N, D).

        The last `perturbed` rows of `x` leave it twice, the second time after perturbed attention. `t6` and `contexts`
        are those of all rows that leave.
        """
        modulation = self.scale_shift_table + t6  # (B, 6, D)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation.chunk(6, dim=1)
        if perturbed:
            B = len(x)
            h = modulated_norm(x, shift_msa[:B], scale_msa[:B], self.norm_eps)
            attended, x = self.attn1(h, perturbed), torch.cat([x, x[-perturbed:]])
        else:
            attended = self.attn1(modulated_norm(x, shift_msa, scale_msa, self.norm_eps))
        x = gated(x, gate_msa, attended)
        x = x + self._attend_to_text(x, contexts, layer)
        h = modulated_norm(x, shift_mlp, scale_mlp, self.norm_eps).unflatten(1, grid)
        return gated(x, gate_mlp, self.ff(h).flatten(1, 2))

    def _attend_to_text(self, x: Tensor, contexts: Sequence[TextContext], layer: int) -> Tensor:
        parts = []
        for rows, context in zip(x.split([c.batch for c in contexts]), contexts, strict=True):
            if context.constants:
                parts.append(context.constants[layer].expand_as(rows))
            else:
                k, v = context.keys[layer], context.values[layer]
                parts.append(self.attn2(rows, k, v, context.mask))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class TimestepEmbedding(nn.Module):
    """Sinusoid (B, 256) -> (B, D)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(_SINUSOID_WIDTH, channels)
        self.linear_2 = nn.Linear(channels, channels)

    def forward(self, position: Tensor) -> Tensor:
        embedding = sinusoid(position).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(embedding)))


class AdaLNSingle(nn.Module):
    """Timestep (and Sprint's guidance) -> `e` for the final layer and `t6` shared by all blocks."""

    def __init__(self, channels: int, *, guidance: bool) -> None:
        super().__init__()
        if guidance:  # the published Sprint files have no `.emb` level
            self.timestep_embedder = TimestepEmbedding(channels)
            self.guidance_embedder = TimestepEmbedding(channels)
        else:
            self.emb = nn.ModuleDict({"timestep_embedder": TimestepEmbedding(channels)})
        self.has_guidance = guidance
        self.linear = SeldomLinear(channels, 6 * channels)

    def forward(self, timestep: Tensor, guidance: Tensor | None) -> tuple[Tensor, Tensor]:
        """timestep, guidance: (B,). Returns e (B, D) and t6 (B, 6, D)."""
        if self.has_guidance:
            if guidance is None:
                raise ValueError("a guidance-distilled model (Sprint) needs `guidance`")
            e = self.timestep_embedder(timestep) + self.guidance_embedder(guidance)
        else:
            e = self.emb["timestep_embedder"](timestep)
        return e, self.linear(F.silu(e)).unflatten(-1, (6, -1))


class CaptionProjection(nn.Module):
    """Text encoder states (B, L, caption_channels) -> (B, L, D)."""

    def __init__(self, caption_channels: int, channels: int) -> None:
        super().__init__()
        self.linear_1 = SeldomLinear(caption_channels, channels)
        self.linear_2 = SeldomLinear(channels, channels)

    def forward(self, text: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(text), approximate="tanh"))


class PatchEmbed(nn.Module):
    """Latents (B, C, h, w) -> tokens (B, N, D): a 1x1 convolution, since Sana's patch size is 1."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = PointwiseConv2d(in_channels, channels, bias=True)

    def forward(self, latents: Tensor) -> Tensor:
        return self.proj(latents.flatten(2).transpose(1, 2))


class SanaTransformer2D(nn.Module):
    """The Linear-DiT. Parameters are named and shaped as in the published diffusers files."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        D = config.inner_dim
        self.config = config
        self.engine: Engine | None = None  # runs `velocity` in place of `forward`
        self.patch_embed = PatchEmbed(config.in_channels, D)
        self.time_embed = AdaLNSingle(D, guidance=config.guidance_embeds)
        self.caption_projection = CaptionProjection(config.caption_channels, D)
        self.caption_norm = RMSNorm(D)
        self.transformer_blocks = nn.ModuleList(
            [SanaBlock(config) for _ in range(config.num_layers)]
        )
        self.scale_shift_table = nn.Parameter(torch.zeros(2, D))
        self.proj_out = nn.Linear(D, config.out_channels)

    def encode_text(self, prompt_embeds: Tensor, mask: Tensor | None = None) -> TextContext:
        """Cross-attention keys and values of all blocks, once per prompt.

        prompt_embeds: (B, L, caption_channels) in the model's dtype; mask: (B, L) bool, True for
        real tokens, or None when all are.
        """
        text = self.caption_norm(self.caption_projection(prompt_embeds))  # (B, L, D)
        return text_context(self.transformer_blocks, text, mask)

    def velocity(
        self,
        latents: Tensor,
        timestep: float,
        contexts: Sequence[TextContext],
        guidance: float | None = None,
        caches: Sequence[FirstBlockCache] = (),
        perturbed_layer: int | None = None,
        control: Control | None = None,
    ) -> Tensor:
        """`forward` for one timestep and guidance of all pictures, by the engine where there is one."""
        if self.engine is not None:
            return self.engine.velocity(
                latents, timestep, contexts, guidance, perturbed_layer, control, caches
            )
        return self.plain_velocity(
            latents, timestep, contexts, guidance, caches, perturbed_layer, control
        )

    def plain_velocity(
        self,
        latents: Tensor,
        timestep: float,
        contexts: Sequence[TextContext],
        guidance: float | None,
        caches: Sequence[FirstBlockCache] = (),
        perturbed_layer: int | None = None,
        control: Control | None = None,
    ) -> Tensor:
        """`velocity` without the engine."""
        t = torch.full(latents.shape[:1], timestep, device=latents.device)
        embedded = None if guidance is None else torch.full((1,), guidance, device=t.device)
        return self(
            latents, t, contexts, embedded, caches=caches, perturbed_layer=perturbed_layer,
            control=control,
        )  # fmt: skip

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        contexts: Sequence[TextContext],
        guidance: Tensor | None = None,
        caches: Sequence[FirstBlockCache] = (),
        perturbed_layer: int | None = None,
        control: Control | None = None,
    ) -> Tensor:
        """Velocity (noise - data) at `latents`.

        latents: (B, C, h, w), B the sum of the contexts' batches; timestep: (B,), 1000*sigma
        truncated (Sprint: the angle's s in 0..1); guidance: (B,), already scaled, Sprint only;
        caches: none, or one a context; control: of all pictures, their contexts hold `control`.
        Returns (B, C, h, w).

        With a `perturbed_layer`, and then without caches, the last context's rows follow once more, with perturbed
        attention in that block. Up to it they are the same, and computed once. Both take the same residuals of `control`.
        """
        h, w = latents.shape[-2:]
        x = self.patch_embed(latents)  # (B, N, D)
        if self.config.interpolation_scale is not None:
            x = x + self._positions(h, w, x)
        e, t6 = self.time_embed(timestep, guidance)
        step = control.begin(latents, timestep, contexts) if control is not None else None
        if caches:
            x = self._run_cached(x, t6, contexts, caches, (h, w), step)
        else:
            for layer, block in enumerate(self.transformer_blocks):
                added = 0
                if layer == perturbed_layer:
                    added, contexts = contexts[-1].batch, [*contexts, contexts[-1]]
                    e, t6 = torch.cat([e, e[-added:]]), torch.cat([t6, t6[-added:]])
                x = block(x, t6, contexts, layer, (h, w), added)
                x = x if step is None else step.after(layer, x)
        shift, scale = (self.scale_shift_table + e[:, None]).chunk(2, dim=1)  # (B, 1, D)
        x = self.proj_out(modulated_norm(x, shift, scale, FINAL_EPS))
        return x.transpose(1, 2).unflatten(-1, (h, w))

    def _run_cached(
        self,
        x: Tensor,
        t6: Tensor,
        contexts: Sequence[TextContext],
        caches: Sequence[FirstBlockCache],
        grid: tuple[int, int],
        step: ControlStep | None,
    ) -> Tensor:
        """Run the blocks; after the first one, only for contexts whose caches hold no usable result."""
        batches = [context.batch for context in contexts]
        blocks = iter(self.transformer_blocks)  # one at a time: those that are not run are not read
        after = next(blocks)(x, t6, contexts, 0, grid)
        firsts, parts = (after - x).split(batches), list(after.split(batches))
        missing = []
        for i, cache in enumerate(caches):
            rest = cache.rest_for(firsts[i])
            if rest is None:
                missing.append(i)
            else:
                parts[i] = parts[i] + rest
        if missing:
            x, modulations = torch.cat([parts[i] for i in missing]), t6.split(batches)
            t6, contexts = (
                torch.cat([modulations[i] for i in missing]),
                [contexts[i] for i in missing],
            )
            step = None if step is None else step.of(missing)
            x = x if step is None else step.after(0, x)
            for layer, block in enumerate(blocks, start=1):
                x = block(x, t6, contexts, layer, grid)
                x = x if step is None else step.after(layer, x)
            for i, done in zip(missing, x.split([batches[i] for i in missing]), strict=True):
                caches[i].keep(firsts[i], done - parts[i])
                parts[i] = done
        return torch.cat(parts)

    def _positions(self, h: int, w: int, like: Tensor) -> Tensor:
        table = sincos_positions(
            h, w, like.shape[-1], self.config.sample_size, self.config.interpolation_scale or 1.0
        )
        return table.to(like)


def text_context(blocks: nn.ModuleList, text: Tensor, mask: Tensor | None = None) -> TextContext:
    """Cross-attention keys and values of `blocks` for projected texts (B, L, D); mask as for `encode_text`."""
    B, L, _ = text.shape
    context = TextContext(B, [], [], [], None if mask is None else mask[:, None, None, :])
    for block in blocks:  # one at a time: they may be streamed
        assert isinstance(block, SanaBlock)
        if L == 1:
            context.constants.append(block.attn2.constant(text))
        else:
            k, v = block.attn2.keys_values(text)
            context.keys.append(k)
            context.values.append(v)
    return context


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm without weights, then AdaLN modulation. x: (B, N, D); shift, scale: (B, 1, D)."""
    if native.runs(x, shift, scale, whole=True):
        return native.modulated_norm(x, shift, scale, eps=eps)
    normed = F.layer_norm(x, x.shape[-1:], eps=eps)
    return torch.addcmul(shift, normed, 1 + scale, out=None if torch.is_grad_enabled() else normed)


def gated(x: Tensor, gate: Tensor, update: Tensor) -> Tensor:
    """x + gate * update, (B, N, D); into `update`, which nobody else may hold, where autograd lets it."""
    return torch.addcmul(x, gate, update, out=None if torch.is_grad_enabled() else update)


def sinusoid(position: Tensor) -> Tensor:
    """(B,) -> (B, 256) fp32, ordered [cos | sin], frequencies 10000^(-i/128)."""
    half = _SINUSOID_WIDTH // 2
    index = torch.arange(half, dtype=torch.float32, device=position.device)
    angles = position.float()[:, None] * torch.exp(-math.log(10000.0) / half * index)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def sincos_positions(h: int, w: int, channels: int, base_size: int, scale: float) -> Tensor:
    """Fixed 2-D positions (h*w, channels) fp32 of the 2K and 4K models.

    The first half of the channels encodes the column, the second the row, each [sin | cos]. Grids
    of any size share the base size's coordinate range; maths in float64 as in the reference.
    """
    omega = 10000.0 ** -(torch.arange(channels // 4, dtype=torch.float64) / (channels / 4))

    def encode(count: int) -> Tensor:  # (count, channels/2)
        coordinate = torch.arange(count, dtype=torch.float32) / (count / base_size) / scale
        angles = coordinate.double()[:, None] * omega
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    columns = encode(w)[None].expand(h, -1, -1)
    rows = encode(h)[:, None].expand(-1, w, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1).float()
