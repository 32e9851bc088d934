"""A block of the Linear-DiT in the engine, in as few launches as its row-wise steps allow; of the transformer or a ControlNet."""

# B batch, N tokens of a picture, M = B * N, D width, H heads, E head width

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quant.kernels.depthwise3x3_glu import repack
from sana_cli.accelerate.cuda.kernels import Kernels
from sana_cli.accelerate.cuda.projection import Int8, Int8Projection, Projection, project
from sana_cli.accelerate.cuda.text_attention import Added, Text, TextAttention, padded
from sana_cli.models.sana_transformer import SanaBlock, TextContext

Pending = tuple[Tensor, Tensor]  # a branch (M, D) and its gate (1, D), not yet added to the stream


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
        perturbed: int = 0,
    ) -> tuple[Tensor, Pending | None]:
        """Update x (M, D), after adding `pending`; returns it with what the next block, or the last norm, is to add.

        The last `perturbed` pictures of x leave twice, the second time after perturbed attention; `text` and `largest` are
        those of all that leave.
        """
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation.split(1)
        addends = text.addends[layer]  # (B, D)
        h = self._norm(x, shift_msa, scale_msa, self.qkv, pending=pending)
        heads = self._attend(h, len(addends) - perturbed, perturbed)
        if perturbed:
            x = torch.cat([x, x[2 * len(x) - len(heads) :]])
        quantized = self._add_attended(x, heads, gate_msa, largest, text)
        late = self.text.add_to(x, text, layer, largest, quantized)
        h = self._norm(x, shift_mlp, scale_mlp, [self.up], addend=addends, late=late)
        branch = self.down.add_gated(x, self._mix(h, len(addends), grid), gate_mlp)
        return x, None if branch is None else (branch, gate_mlp)

    def _norm(
        self,
        x: Tensor,
        shift: Tensor,
        scale: Tensor,
        consumers: Sequence[Projection],
        *,
        pending: Pending | None = None,
        addend: Tensor | None = None,
        late: Added | None = None,
    ) -> Tensor | Int8:
        """The modulated norm as its consumers want it, after adding `pending` or `late`."""
        branch, gate = pending or (None, None)
        first = 0
        if late is not None:
            branch, first = late
        added: dict[str, Any] = {
            "branch": branch, "branch_first": first, "gate": gate, "addend": addend,
        }  # fmt: skip
        if len(consumers) == 1 and consumers[0].takes_int8:
            return self.kernels.layer_norm_modulate_quantize(
                x, shift, scale, eps=self.norm_eps, **added, smooth=consumers[0].smooth,
                q_dtype=consumers[0].q_dtype,
            )  # fmt: skip
        return self.kernels.layer_norm_modulate(x, shift, scale, eps=self.norm_eps, **added)

    def _attend(self, h: Tensor | Int8, B: int, perturbed: int) -> Tensor:
        """Self-attention's heads, (M, D); then those of the last `perturbed` pictures, of which each token attends to itself."""
        products = [projection(h) for projection in self.qkv]  # one of (M, 3D) or three of (M, D)
        if self.qk_norms:
            self._norm_queries_and_keys(products)
        if len(products) == 1:
            products = list(products[0].chunk(3, dim=-1))
        heads = (B, -1, products[0].shape[-1] // self.head_dim, self.head_dim)
        q, k, v = (_split(product, heads) for product in products)  # (B, N, H, E)
        attended = self.kernels.relu_linear_attention(q, k, v).view(-1, products[0].shape[-1])
        if perturbed:
            attended = torch.cat([attended, v[-perturbed:].flatten(2).flatten(0, 1)])
        return attended

    def _norm_queries_and_keys(self, products: list[Tensor]) -> None:
        eps = self.qk_norms[0].eps
        if len(products) == 1:
            parts = products[0].unflatten(-1, (3, -1))[:, :2]
            self.kernels.rms_norm(parts, self.qk_weight, eps=eps, out=parts)
            return
        for product, weight in zip(products, self.qk_weight.split(1), strict=False):
            part = product[:, None]
            self.kernels.rms_norm(part, weight, eps=eps, out=part)

    def _add_attended(
        self, x: Tensor, heads: Tensor, gate: Tensor, largest: Tensor | None, text: Text
    ) -> Int8 | None:
        """x += gate * self-attention's output; its rows' largest magnitudes for the text's queries, or x quantized for them."""
        if largest is not None:
            assert isinstance(self.out, Int8Projection)
            self.out.add_gated(x, heads, gate, largest=largest[0], smooth=self.text.query.smooth)
            return None
        branch = self.out.add_gated(x, heads, gate)
        if branch is None:
            return None
        if branch.dtype == torch.float16:
            branch.clamp_(-65504, 65504)  # as the model does
        if self.text.quantizes(text):
            query = self.text.query
            quantized: Int8 = self.kernels.quantize_per_token(
                x, smooth=query.smooth, branch=branch, gate=gate, q_dtype=query.q_dtype
            )
            return quantized
        x.addcmul_(branch, gate)
        return None

    def _mix(self, h: Tensor | Int8, B: int, grid: tuple[int, int]) -> Tensor:
        """The Mix-FFN up to its last convolution, (M, hidden)."""
        hidden = self.up(h, activation="silu")
        remaining = None if self.up.applies_silu else "silu"
        mixed = self.kernels.depthwise3x3_glu(
            hidden.view(B, *grid, -1), self.depth_weight, self.depth_bias, activation=remaining
        )
        return mixed.view(len(hidden), -1)


def text_of(blocks: Sequence[EngineBlock], contexts: Sequence[TextContext], tables: Tensor) -> Text:
    """Compute what every step reads of the prompts; `tables` (layers, 6, D) are the blocks' own."""
    addends = []
    for layer, block in enumerate(blocks):
        for context in contexts:
            if context.constants:
                rows = context.constants[layer][:, 0].float()
            elif block.text.out.late_bias is not None:
                rows = block.text.out.late_bias.float().expand(context.batch, -1)
            else:
                rows = tables.new_zeros(context.batch, tables.shape[-1])
            addends.append(rows)
    return Text.of(padded(contexts), torch.cat(addends).unflatten(0, (len(blocks), -1)))


def added(x: Tensor, pending: Pending | None) -> Tensor:
    """The stream x (M, D) with what was still to be added, in place."""
    if pending is None:
        return x
    branch, gate = pending
    return x.addcmul_(branch, gate)


def _split(product: Tensor, heads: tuple[int, int, int, int]) -> Tensor:
    """(M, D) -> (B, N, H, E), also of a slice of a wider product."""
    B, _, H, E = heads
    return product.unflatten(0, (B, -1)).unflatten(-1, (H, E))
