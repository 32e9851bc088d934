"""The Linear-DiT's forward, in as few launches as its row-wise steps allow. Equals `SanaTransformer2D.forward`.

The residual stream is one tensor (M, D) that every block updates in place. Modulation is fp32 and the same
for the whole batch, since all pictures of a step have one timestep.
"""

# B batch, N tokens of a picture, M = B * N, D width, H heads, E head width

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quant.kernels.depthwise3x3_glu import repack
from sana_cli.accelerate.cuda.kernels import Kernels
from sana_cli.accelerate.cuda.projection import Int8, Int8Projection, Projection, project
from sana_cli.accelerate.cuda.text_attention import Text, TextAttention, padded
from sana_cli.models.sana_transformer import (
    FINAL_EPS,
    SanaBlock,
    SanaTransformer2D,
    TextContext,
    sincos_positions,
)

Pending = tuple[Tensor, Tensor]  # a branch (M, D) and its gate (1, D), not yet added to the stream


@dataclass(frozen=True, slots=True)
class Condition:
    """A step's timestep, embedded: e (1, D) and t6 (6, D), fp32."""

    e: Tensor
    t6: Tensor

    def copy(self) -> "Condition":
        return Condition(self.e.clone(), self.t6.clone())

    def copy_(self, other: "Condition") -> None:
        self.e.copy_(other.e)
        self.t6.copy_(other.t6)


class EngineBlock:
    """A block of the transformer over tokens (M, D)."""

    def __init__(self, block: SanaBlock, kernels: Kernels, dtype: torch.dtype) -> None:
        self.kernels, self.norm_eps = kernels, block.norm_eps
        attn, ff = block.attn1, block.ff
        self.head_dim = attn.head_dim
        self.qkv = project([attn.to_q, attn.to_k, attn.to_v], kernels, dtype)
        self.qk_norms = [norm for norm in (attn.norm_q, attn.norm_k) if norm is not None]
        (self.out,) = project([attn.to_out[0]], kernels, dtype)
        self.text = TextAttention(block.attn2, kernels, dtype)
        (self.up,) = project([ff.conv_inverted], kernels, dtype)
        (self.down,) = project([ff.conv_point], kernels, dtype)
        assert ff.conv_depth.bias is not None
        self.depth_weight = repack(ff.conv_depth.weight.detach())
        self.depth_bias = ff.conv_depth.bias.detach()
        if self.qk_norms:
            self.qk_weight = torch.stack([norm.weight.detach() for norm in self.qk_norms])

    @property
    def needs_largest(self) -> bool:
        """Return whether the text's attention takes the stream with its rows' largest magnitudes."""
        return isinstance(self.out, Int8Projection) and self.text.takes_largest

    def __call__(
        self,
        x: Tensor,
        pending: Pending | None,
        modulation: Tensor,  # (6, D)
        text: Text,
        layer: int,
        grid: tuple[int, int],
        largest: Tensor | None,  # (2, M) of zeros, where `needs_largest`
    ) -> Pending | None:
        """Update x (M, D), after adding `pending`; returns what the next block, or the last norm, is to add."""
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation.split(1)
        addends = text.addends[layer]  # (B, D)
        h = self._norm(x, shift_msa, scale_msa, self.qkv, pending=pending)
        self._add_attended(x, self._attend(h, len(addends)), gate_msa, largest)
        self.text.add_to(x, text, layer, largest)
        h = self._norm(x, shift_mlp, scale_mlp, [self.up], addend=addends)
        branch = self.down.add_gated(x, self._mix(h, len(addends), grid), gate_mlp)
        return None if branch is None else (branch, gate_mlp)

    def _norm(
        self,
        x: Tensor,
        shift: Tensor,
        scale: Tensor,
        consumers: Sequence[Projection],
        *,
        pending: Pending | None = None,
        addend: Tensor | None = None,
    ) -> Tensor | Int8:
        """The modulated norm as its consumers want it."""
        branch, gate = pending or (None, None)
        if len(consumers) == 1 and consumers[0].takes_int8:
            return self.kernels.layer_norm_modulate_quantize(
                x, shift, scale, eps=self.norm_eps, branch=branch, gate=gate, addend=addend,
                smooth=consumers[0].smooth, q_dtype=consumers[0].q_dtype,
            )  # fmt: skip
        return self.kernels.layer_norm_modulate(
            x, shift, scale, eps=self.norm_eps, branch=branch, gate=gate, addend=addend
        )

    def _attend(self, h: Tensor | Int8, B: int) -> Tensor:
        """Self-attention's heads, (M, D)."""
        products = [projection(h) for projection in self.qkv]  # one of (M, 3D) or three of (M, D)
        if self.qk_norms:
            self._norm_queries_and_keys(products)
        if len(products) == 1:
            products = list(products[0].chunk(3, dim=-1))
        heads = (B, -1, products[0].shape[-1] // self.head_dim, self.head_dim)
        q, k, v = (_split(product, heads) for product in products)  # (B, N, H, E)
        return self.kernels.relu_linear_attention(q, k, v).view(-1, products[0].shape[-1])

    def _norm_queries_and_keys(self, products: list[Tensor]) -> None:
        eps = self.qk_norms[0].eps
        if len(products) == 1:
            parts = products[0].unflatten(-1, (3, -1))[:, :2]
            self.kernels.rms_norm(parts, self.qk_weight, eps=eps, out=parts)
            return
        for product, weight in zip(products, self.qk_weight.split(1), strict=False):
            part = product[:, None]
            self.kernels.rms_norm(part, weight, eps=eps, out=part)

    def _add_attended(self, x: Tensor, heads: Tensor, gate: Tensor, largest: Tensor | None) -> None:
        """x += gate * self-attention's output; its rows' largest magnitudes for the text's queries."""
        if largest is not None:
            assert isinstance(self.out, Int8Projection)
            self.out.add_gated(x, heads, gate, largest=largest[0], smooth=self.text.query.smooth)
            return
        branch = self.out.add_gated(x, heads, gate)
        if branch is not None:
            if branch.dtype == torch.float16:
                branch.clamp_(-65504, 65504)  # as the model does
            x.addcmul_(branch, gate)

    def _mix(self, h: Tensor | Int8, B: int, grid: tuple[int, int]) -> Tensor:
        """The Mix-FFN up to its last convolution, (M, hidden)."""
        hidden = self.up(h, activation="silu")
        remaining = None if self.up.applies_silu else "silu"
        mixed = self.kernels.depthwise3x3_glu(
            hidden.view(B, *grid, -1), self.depth_weight, self.depth_bias, activation=remaining
        )
        return mixed.view(len(hidden), -1)


class EngineTransformer:
    """The whole forward. The model keeps its weights; what was joined are views of the engine's.

    It holds parts of the model but not the model, which holds it: without a cycle, both are freed at once.
    """

    def __init__(self, model: SanaTransformer2D, kernels: Kernels) -> None:
        self.kernels, self.config = kernels, model.config
        self.patch_embed, self.time_embed = model.patch_embed, model.time_embed
        self.proj_out = model.proj_out
        self.dtype = model.proj_out.weight.dtype
        blocks: list[SanaBlock] = list(model.transformer_blocks)  # type: ignore[arg-type]
        self.blocks = [EngineBlock(block, kernels, self.dtype) for block in blocks]
        self.tables = torch.stack([b.scale_shift_table.detach() for b in blocks]).float()
        self.final_table = model.scale_shift_table.detach().float()

    @property
    def projections(self) -> str:
        """The kinds of products, for what is remembered about this engine."""
        parts = [
            p for b in self.blocks for p in (*b.qkv, b.out, b.text.query, b.text.out, b.up, b.down)
        ]
        return " ".join(sorted({type(part).__name__ for part in parts}))

    def condition(self, timestep: float, guidance: float | None) -> Condition:
        """A timestep, embedded; `guidance` is Sprint's, already scaled."""
        t = torch.full((1,), timestep, device=self.final_table.device)
        e, t6 = self.time_embed(t, None if guidance is None else torch.full_like(t, guidance))
        return Condition(e.float(), t6[0].float())

    def text(self, contexts: Sequence[TextContext]) -> Text:
        """Compute what every step reads of the prompts."""
        addends = []
        for layer, block in enumerate(self.blocks):
            for context in contexts:
                if context.constants:
                    rows = context.constants[layer][:, 0].float()
                elif block.text.out.late_bias is not None:
                    rows = block.text.out.late_bias.float().expand(context.batch, -1)
                else:
                    rows = self.final_table.new_zeros(context.batch, self.final_table.shape[1])
                addends.append(rows)
        return Text(padded(contexts), torch.cat(addends).unflatten(0, (len(self.blocks), -1)))

    def positions(self, h: int, w: int) -> Tensor | None:
        """Fixed positions (N, D) of the 2K and 4K models."""
        config = self.config
        if config.interpolation_scale is None:
            return None
        D = config.inner_dim
        table = sincos_positions(h, w, D, config.sample_size, config.interpolation_scale)
        return table.to(self.final_table.device, self.dtype)

    def forward(
        self, latents: Tensor, condition: Condition, text: Text, positions: Tensor | None
    ) -> Tensor:
        """Velocity (B, C, h, w) at latents (B, C, h, w)."""
        B, _, h, w = latents.shape
        x = self.patch_embed(latents)  # (B, N, D)
        if positions is not None:
            x += positions
        x = x.flatten(0, 1)
        modulations = self.tables + condition.t6  # (layers, 6, D)
        largest = None
        if any(block.needs_largest for block in self.blocks):
            largest = modulations.new_zeros(len(self.blocks), 2, len(x))
        pending = None
        for layer, block in enumerate(self.blocks):
            pending = block(
                x, pending, modulations[layer], text, layer, (h, w),
                largest[layer] if largest is not None and block.needs_largest else None,
            )  # fmt: skip
        shift, scale = (self.final_table + condition.e).split(1)
        branch, gate = pending or (None, None)
        x = self.kernels.layer_norm_modulate(
            x, shift, scale, eps=FINAL_EPS, branch=branch, gate=gate
        )
        return self.proj_out(x).view(B, h, w, -1).permute(0, 3, 1, 2)


def _split(product: Tensor, heads: tuple[int, int, int, int]) -> Tensor:
    """(M, D) -> (B, N, H, E), also of a slice of a wider product."""
    B, _, H, E = heads
    return product.unflatten(0, (B, -1)).unflatten(-1, (H, E))
