"""Sana's ControlNet: a branch next to the Linear-DiT that adds residuals made from a control picture.

The branch copies the first blocks of its base and has a projection before the first and after each of them (ControlNet,
arXiv 2302.05543; Sana's in NVlabs/Sana, `sana_multi_scale_controlnet.py`). The same tensors are run in two orders, which
are two networks. As trained: the branch begins from the base's tokens after block 0, and residual i is added after base
block i. In diffusers: the branch begins from its own embedding of the latents, and residual i is added after base block
i + 1. What the prompt or the control picture alone decides is computed once a picture.
"""

# B batch, C latent channels, h w latent grid, N image tokens (h*w), L text tokens, D width

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sana_cli.config.choices import ControlOrder
from sana_cli.config.networks import ControlNetConfig
from sana_cli.models.layers import RMSNorm
from sana_cli.models.sana_transformer import (
    AdaLNSingle,
    CaptionProjection,
    PatchEmbed,
    SanaBlock,
    TextContext,
    text_context,
)


class SanaControlNet(nn.Module):
    """The branch. Parameters are named and shaped as in diffusers' `SanaControlNetModel`."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        blocks = config.blocks
        D = blocks.inner_dim
        self.config = config
        self.patch_embed = PatchEmbed(blocks.in_channels, D)
        self.time_embed = AdaLNSingle(D, guidance=False)
        self.caption_projection = CaptionProjection(blocks.caption_channels, D)
        self.caption_norm = RMSNorm(D)
        self.input_block = nn.Linear(D, D)
        self.transformer_blocks = nn.ModuleList(
            [SanaBlock(blocks) for _ in range(blocks.num_layers)]
        )
        self.controlnet_blocks = nn.ModuleList([nn.Linear(D, D) for _ in range(blocks.num_layers)])

    def encode_text(self, prompt_embeds: Tensor, mask: Tensor | None = None) -> TextContext:
        """Cross-attention keys and values of the copied blocks; arguments as for the base's."""
        text = self.caption_norm(self.caption_projection(prompt_embeds))  # (B, L, D)
        return text_context(self.transformer_blocks, text, mask)

    def encode_control(self, latents: Tensor) -> Tensor:
        """The control picture's latents (1, C, h, w), scaled as a sampler's -> what the branch adds to its tokens (1, N, D)."""
        return self.input_block(self.patch_embed(latents.to(self.caption_norm.weight.dtype)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveControl:
    """A ControlNet with the picture that it follows; a `Control` of `SanaTransformer2D`."""

    net: SanaControlNet
    tokens: Tensor  # (1, N, D), of `encode_control`
    scale: float  # of the residuals; 0 draws what the base draws
    order: ControlOrder

    def begin(self, latents: Tensor, timestep: Tensor, contexts: Sequence[TextContext]) -> "_Step":
        """Begin a step at latents (B, C, h, w) and timestep (B,). ValueError for a context without `control`."""
        own = [context.control for context in contexts]
        if any(context is None for context in own):
            raise ValueError("a text was not encoded for the ControlNet")
        _, t6 = self.net.time_embed(timestep, None)
        return _Step(self, latents, t6, [context for context in own if context is not None])


class _Step:
    """Runs the branch for one step, block by block next to its base."""

    def __init__(
        self, control: ActiveControl, latents: Tensor, t6: Tensor, contexts: Sequence[TextContext]
    ) -> None:
        """latents (B, C, h, w), modulation t6 (B, 6, D) and the branch's own contexts."""
        self._control, self._latents, self._t6, self._contexts = control, latents, t6, contexts
        self._is_as_trained = control.order is ControlOrder.TRAINED
        self._blocks = iter(control.net.transformer_blocks)  # one at a time: they may be streamed
        self._tokens: Tensor | None = None  # (B, N, D) of the branch
        self._residual: Tensor | None = None  # to be added one base block later

    def of(self, some: Sequence[int]) -> "_Step":
        """The same step of these contexts alone; before block 0."""
        batches = [context.batch for context in self._contexts]
        latents, t6 = self._latents.split(batches), self._t6.split(batches)
        return _Step(
            self._control,
            torch.cat([latents[i] for i in some]),
            torch.cat([t6[i] for i in some]),
            [self._contexts[i] for i in some],
        )

    def after(self, layer: int, x: Tensor) -> Tensor:
        """Take the base's tokens (B, N, D) after its block `layer`; return those that the next block reads.

        Rows beyond the step's own are the last ones once more, perturbed: they take the same residuals.
        """
        net = self._control.net
        late, self._residual = self._residual, None
        if layer < net.config.blocks.num_layers:
            residual = self._run(layer, x[: len(self._latents)])
            if self._is_as_trained:
                return x + _repeated(residual, len(x))
            self._residual = residual
        return x if late is None else x + _repeated(late, len(x))

    def _run(self, layer: int, x: Tensor) -> Tensor:
        """Run the branch's block `layer`; returns its residual (B, N, D), scaled."""
        net = self._control.net
        if self._tokens is None:
            start = x if self._is_as_trained else net.patch_embed(self._latents)
            self._tokens = start + self._control.tokens
        h, w = self._latents.shape[-2:]
        self._tokens = next(self._blocks)(self._tokens, self._t6, self._contexts, layer, (h, w))
        if layer == net.config.blocks.num_layers - 1:
            next(
                self._blocks, None
            )  # ends a streamed pass, so that the next one finds its first block
        return net.controlnet_blocks[layer](self._tokens) * self._control.scale


def _repeated(residual: Tensor, rows: int) -> Tensor:
    """The residual (B, N, D) with its last rows once more, (rows, N, D)."""
    more = rows - len(residual)
    return torch.cat([residual, residual[-more:]]) if more else residual
