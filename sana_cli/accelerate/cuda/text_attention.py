"""Run a block's cross-attention in the engine; in w8a8 without a launch that only quantizes.

A token's scale needs all of its channels, which no program of a product or of attention holds.
Their outputs therefore stay in floats, with the largest magnitude of each token, and the kernel
that reads them quantizes.
"""

# B batch, N tokens of a picture, M = B * N, D width, H heads, E head width, L text tokens

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from quant.kernels.cross_attention import MAX_E
from sana_cli.accelerate.cuda.kernels import Kernels
from sana_cli.accelerate.cuda.projection import Float8Projection, Int8, Int8Projection, project
from sana_cli.models.sana_transformer import CrossAttention, TextContext

# Tokens that texts are padded to; 300 are the most that a prompt has. Each combination of lengths needs its own graph,
# which takes longer to capture than a picture to draw; a kernel's tile is 64 of them.
_LENGTHS = (64, 128, 320)


@dataclass(frozen=True, slots=True)
class Text:
    """The text of a batch of contexts, as cross-attention reads it.

    `addends` (layers, B, D) fp32 is added to every token of a picture: the whole attention of a
    text of one token, the output's bias of a longer one. `biases` of the contexts are (B, 1, 1, L) of the
    model's type, for torch's attention: 0 for real tokens, -inf for others. Given a mask of booleans, it
    would make them again in every block.
    """

    contexts: Sequence[TextContext]
    addends: Tensor
    biases: Sequence[Tensor | None]

    @classmethod
    def of(cls, contexts: Sequence[TextContext], addends: Tensor) -> "Text":
        """Build a text with the biases of its contexts."""
        return cls(contexts, addends, [_bias(context) for context in contexts])

    def without_last(self) -> "Text":
        """Return the same without the last context: views."""
        contexts = self.contexts[:-1]
        rows = sum(context.batch for context in contexts)
        return Text(contexts, self.addends[:, :rows], self.biases[:-1])

    def tensors(self) -> list[Tensor]:
        """List all that a forward reads."""
        found = [self.addends]
        for context in self.contexts:
            found += [*context.keys, *context.values]
            if context.mask is not None:
                found.append(context.mask)
        return found + [bias for bias in self.biases if bias is not None]

    def shape(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(t.shape) for t in self.tensors())

    def copy(self) -> "Text":
        """Return the same in memory of its own."""
        contexts = [
            TextContext(
                c.batch,
                [k.clone() for k in c.keys],
                [v.clone() for v in c.values],
                c.constants,  # `addends` hold them
                None if c.mask is None else c.mask.clone(),
            )
            for c in self.contexts
        ]
        return Text.of(contexts, self.addends.clone())

    def copy_(self, other: "Text") -> None:
        """Take over the values of a text of the same shape."""
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            mine.copy_(theirs)


def padded(contexts: Sequence[TextContext]) -> list[TextContext]:
    """Return contexts with tokens that no one sees, so that texts of many lengths have the shapes of a few."""
    longest = max((c.keys[0].shape[2] for c in contexts if not c.constants), default=0)
    length = next((length for length in _LENGTHS if longest <= length), longest)
    return [c if c.constants else _padded(c, length) for c in contexts]


def _padded(context: TextContext, length: int) -> TextContext:
    keys, values = context.keys, context.values
    B, _, L, _ = keys[0].shape
    mask = context.mask
    if mask is None:
        mask = torch.ones(B, 1, 1, L, dtype=torch.bool, device=keys[0].device)
    return TextContext(
        context.batch,
        [F.pad(k, (0, 0, 0, length - L)) for k in keys],
        [F.pad(v, (0, 0, 0, length - L)) for v in values],
        [],
        F.pad(mask, (0, length - L)),
    )


def _bias(context: TextContext) -> Tensor | None:
    if context.mask is None:
        return None
    zeros = torch.zeros(context.mask.shape, dtype=context.keys[0].dtype, device=context.mask.device)
    return zeros.masked_fill_(~context.mask, float("-inf"))


Added = tuple[Tensor, int]  # rows (R, D) that are still to be added to a stream's from this row on


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

    def quantizes(self, text: Text) -> bool:
        """Return whether it begins by quantizing rows of the stream, without knowing their magnitudes."""
        return self.query.takes_int8 and not all(context.constants for context in text.contexts)

    def add_to(
        self, x: Tensor, text: Text, layer: int, largest: Tensor | None, quantized: Int8 | None
    ) -> Added | None:
        """Update x (M, D), or return what is still to be added to it.

        `largest` (2, M) fp32, where it takes them: of x's rows, and zeros to be raised. `quantized`: x, where it
        `quantizes` it and whoever wrote it has done so.
        """
        contexts = text.contexts
        N = len(x) // sum(context.batch for context in contexts)
        counts = [N * context.batch for context in contexts]
        if largest is None:
            return self._add_in_floats(x, counts, text, layer, quantized)
        of_rows = largest.split(counts, dim=1)
        for rows, part, context in zip(x.split(counts), of_rows, contexts, strict=True):
            if not context.constants:  # texts of one token need nothing else
                self.out.add_to(rows, self._attend_w8a8(rows, part, context, layer))
        return None

    def _add_in_floats(
        self, x: Tensor, counts: Sequence[int], text: Text, layer: int, quantized: Int8 | None
    ) -> Added | None:
        """Update x, or return what its next reader is to add: one product for all texts that follow one another."""
        attended, firsts, first = [], [], 0
        for count, context, bias in zip(counts, text.contexts, text.biases, strict=True):
            if not context.constants:
                rows = slice(first, first + count)
                given = x[rows] if quantized is None else (quantized[0][rows], quantized[1][rows])
                attended.append(self._attend(given, context, layer, bias))
                firsts.append(first)
            first += count
        if not attended:
            return None
        follow = firsts[-1] + len(attended[-1]) - firsts[0] == sum(map(len, attended))
        if follow and not self.out.adds:
            joined = attended[0] if len(attended) == 1 else torch.cat(attended)
            return self.out.unbiased(joined), firsts[0]
        for first, heads in zip(firsts, attended, strict=True):
            self.out.add_to(x[first : first + len(heads)], heads)
        return None

    def _attend(
        self, rows: Tensor | Int8, context: TextContext, layer: int, bias: Tensor | None
    ) -> Tensor:
        """(M, D) by torch's attention."""
        q = self._normed(self.query(rows))
        if isinstance(self.query, Float8Projection) and self.heads[1] <= MAX_E:
            mask = None if context.mask is None else context.mask[:, 0, 0]
            return self.kernels.cross_attention(
                q, context.keys[layer], context.values[layer], mask=mask
            )
        q = q.view(context.batch, -1, *self.heads).transpose(1, 2)  # (B, H, N, E)
        out = F.scaled_dot_product_attention(
            q, context.keys[layer], context.values[layer], attn_mask=bias
        )
        return out.transpose(1, 2).flatten(2).flatten(0, 1)

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
