"""A ControlNet's branch in the engine: its blocks run next to the transformer's, in either order (`models/controlnet.py`)."""

# B batch, N tokens of a picture, M = B * N, D width

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sana_cli.accelerate.cuda.blocks import EngineBlock, Pending, added, text_of
from sana_cli.accelerate.cuda.kernels import Kernels
from sana_cli.accelerate.cuda.text_attention import Text
from sana_cli.config.choices import ControlOrder
from sana_cli.models.controlnet import ActiveControl, SanaControlNet
from sana_cli.models.sana_transformer import SanaBlock, TextContext


@dataclass(frozen=True, slots=True)
class ControlInputs:
    """The inputs of the branch in every step of a picture: its texts, the drawing's tokens (1, N, D), the scale (1,)."""

    text: Text
    tokens: Tensor
    scale: Tensor

    def tensors(self) -> list[Tensor]:
        """List all that a forward reads."""
        return [*self.text.tensors(), self.tokens, self.scale]

    def copy(self) -> "ControlInputs":
        """Return the same in memory of its own."""
        return ControlInputs(self.text.copy(), self.tokens.clone(), self.scale.clone())


class EngineControl:
    """The branch's blocks. It holds parts of the ControlNet, which keeps its weights."""

    def __init__(self, net: SanaControlNet, kernels: Kernels, dtype: torch.dtype) -> None:
        self.patch_embed, self.time_embed = net.patch_embed, net.time_embed
        self.projections = list(net.controlnet_blocks)
        blocks: list[SanaBlock] = list(net.transformer_blocks)  # type: ignore[arg-type]
        self.blocks = [EngineBlock(block, kernels, dtype) for block in blocks]
        self.tables = torch.stack([b.scale_shift_table.detach() for b in blocks]).float()

    def condition(self, timestep: float) -> Tensor:
        """A timestep as the branch embeds it, t6 (6, D) fp32."""
        t = torch.full((1,), timestep, device=self.tables.device)
        return self.time_embed(t, None)[1][0].float()

    def begin(
        self, latents: Tensor, t6: Tensor, inputs: ControlInputs, order: ControlOrder
    ) -> "ControlPass":
        """Begin a step at latents (B, C, h, w) and timestep `t6`."""
        return ControlPass(self, latents, self.tables + t6, inputs, order)


class ControlPass:
    """A step of the branch, block by block next to its base; as `models.controlnet._Step`."""

    def __init__(
        self,
        net: EngineControl,
        latents: Tensor,
        modulations: Tensor,
        inputs: ControlInputs,
        order: ControlOrder,
    ) -> None:
        """`modulations` (blocks, 6, D) of the step."""
        self._net, self._latents, self._modulations, self._inputs = (
            net, latents, modulations, inputs,
        )  # fmt: skip
        self._is_as_trained = order is ControlOrder.TRAINED
        self._tokens: Tensor | None = None  # (M, D) of the branch
        self._late: Tensor | None = None  # residual to be added one base block later

    def after(
        self, layer: int, x: Tensor, pending: Pending | None
    ) -> tuple[Tensor, Pending | None]:
        """Update the base's tokens x (M, D) after its block `layer`; rows beyond the step's own take the last residuals."""
        late, self._late = self._late, None
        if layer >= len(self._net.blocks) and late is None:
            return x, pending
        x = added(x, pending)
        if layer < len(self._net.blocks):
            residual = self._run(layer, x)
            late, self._late = (residual, None) if self._is_as_trained else (late, residual)
        if late is not None:
            x[: len(late)] += late
            if (more := len(x) - len(late)) > 0:
                x[len(late) :] += late[-more:]
        return x, None

    def _run(self, layer: int, x: Tensor) -> Tensor:
        """Run the branch's block `layer`; returns its residual (M, D), scaled."""
        net, inputs = self._net, self._inputs
        B, _, h, w = self._latents.shape
        if self._tokens is None:
            start = x[: B * h * w] if self._is_as_trained else net.patch_embed(self._latents)
            self._tokens = (start.reshape(B, h * w, -1) + inputs.tokens).flatten(0, 1)
        block = net.blocks[layer]
        largest = self._modulations.new_zeros(2, B * h * w) if block.needs_largest else None
        tokens, pending = block(
            self._tokens, None, self._modulations[layer], inputs.text, layer, (h, w), largest
        )
        self._tokens = added(tokens, pending)
        return net.projections[layer](self._tokens) * inputs.scale


def inputs_of(
    net: EngineControl, control: ActiveControl, contexts: Sequence[TextContext | None]
) -> ControlInputs:
    """Collect what the branch reads of an active control; `contexts` are its own. ValueError for one that is missing."""
    own = [context for context in contexts if context is not None]
    if len(own) < len(contexts):
        raise ValueError("a text was not encoded for the ControlNet")
    scale = torch.full((1,), control.scale, device=net.tables.device, dtype=control.tokens.dtype)
    return ControlInputs(text_of(net.blocks, own, net.tables), control.tokens, scale)
