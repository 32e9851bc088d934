"""Run a block's cross-attention in the engine; in w8a8 without a launch that only quantizes.

A token's scale needs all of its channels, which no program of a product or of attention holds.
Their outputs therefore stay in floats, with the largest magnitude of each token, and the kernel
that reads them quantizes.
"""

# B batch, N tokens of a picture, M = B * N, D width, H heads, E head width, L text tokens

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from quant.kernels.cross_attention import MAX_E
from sana_cli.accelerate.cuda.kernels import Kernels
from sana_cli.accelerate.cuda.projection import Int8Projection, project
from sana_cli.models.sana_transformer import CrossAttention, TextContext


class TextAttention:
    """Adds a batch's text attention to tokens, except for what `Text.addends` hold."""

    def __init__(self, cross: CrossAttention, kernels: Kernels, dtype: torch.dtype) -> None:
        self.kernels, self.heads, self.norm = kernels, cross.heads, cross.norm_q
        (self.query,) = project([cross.to_q], kernels, dtype)
        (self.out,) = project([cross.to_out[0]], kernels, dtype)

    @property
    def takes_largest(self) -> bool:
        """Return whether all of it is w8a8: then attention outputs must carry no factors for the next input."""
        int8 = isinstance(self.query, Int8Projection) and isinstance(self.out, Int8Projection)
        return int8 and self.out.smooth is None and self.heads[1] <= MAX_E

    def add_to(
        self, x: Tensor, contexts: Sequence[TextContext], layer: int, largest: Tensor | None
    ) -> None:
        """Update x (M, D). `largest` (2, M) fp32, where it takes them: of x's rows, and zeros to be raised."""
        N = len(x) // sum(context.batch for context in contexts)
        counts = [N * context.batch for context in contexts]
        parts = [None] * len(counts) if largest is None else largest.split(counts, dim=1)
        for rows, of_rows, context in zip(x.split(counts), parts, contexts, strict=True):
            if context.constants:
                continue  # texts of one token need nothing else
            if of_rows is None:
                self.out.add_to(rows, self._attend(rows, context, layer))
            else:
                self.out.add_to(rows, self._attend_w8a8(rows, of_rows, context, layer))

    def _attend(self, rows: Tensor, context: TextContext, layer: int) -> Tensor:
        """(M, D) by torch's attention."""
        q = self._normed(self.query(rows))
        q = q.view(context.batch, -1, *self.heads).transpose(1, 2)  # (B, H, N, E)
        out = F.scaled_dot_product_attention(
            q, context.keys[layer], context.values[layer], attn_mask=context.mask
        )
        return out.transpose(1, 2).reshape(len(rows), -1)

    def _attend_w8a8(
        self, rows: Tensor, largest: Tensor, context: TextContext, layer: int
    ) -> tuple[Tensor, Tensor]:
        """(M, D) and the largest magnitudes of its rows."""
        query, (of_rows, of_result) = self.query, largest
        assert isinstance(query, Int8Projection)
        text = {
            "keys": context.keys[layer],
            "values": context.values[layer],
            "mask": None if context.mask is None else context.mask[:, 0, 0],
            "out_largest": of_result,
        }
        if self.norm is None:
            out = self.kernels.cross_attention_w8a8(
                rows, of_rows, query.weight, query.scale, bias=query.bias, smooth=query.smooth,
                **text,
            )  # fmt: skip
        else:  # it needs whole rows of queries
            q = query((rows, of_rows) if query.smooth is None else rows)
            out = self.kernels.cross_attention(self._normed(q), **text)
        return out, of_result

    def _normed(self, q: Tensor) -> Tensor:
        """Queries (M, D), normed in place where the model does."""
        if self.norm is not None:
            part = q[:, None]
            self.kernels.rms_norm(part, self.norm.weight[None], eps=self.norm.eps, out=part)
        return q
