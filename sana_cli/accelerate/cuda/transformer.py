"""The Linear-DiT's forward, in as few launches as its row-wise steps allow. Equals `SanaTransformer2D.forward`.

The residual stream is one tensor (M, D) that every block updates in place. Modulation is fp32 and the same
for the whole batch, since all pictures of a step have one timestep.
"""

# B batch, N tokens of a picture, M = B * N, D width, H heads, E head width

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor

from sana_cli.accelerate.cuda.blocks import EngineBlock, Pending, added, text_of
from sana_cli.accelerate.cuda.control import ControlInputs, EngineControl
from sana_cli.accelerate.cuda.kernels import Kernels
from sana_cli.accelerate.cuda.text_attention import Text
from sana_cli.config.choices import ControlOrder
from sana_cli.models.sana_transformer import (
    FINAL_EPS,
    SanaBlock,
    SanaTransformer2D,
    TextContext,
    sincos_positions,
)


@dataclass(frozen=True, slots=True)
class Condition:
    """A step's timestep, embedded: e (1, D) and t6 (6, D), fp32; t6 of a ControlNet, which embeds it by itself."""

    e: Tensor
    t6: Tensor
    control_t6: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """List what a step reads."""
        return [self.e, self.t6, *([] if self.control_t6 is None else [self.control_t6])]

    def copy(self) -> "Condition":
        return Condition(*(tensor.clone() for tensor in self.tensors()))

    def copy_(self, other: "Condition") -> None:
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            mine.copy_(theirs)


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The inputs of every step of a picture: the prompts, and what a ControlNet's branch reads."""

    text: Text
    control: ControlInputs | None = None

    def tensors(self) -> list[Tensor]:
        """List all that a forward reads."""
        return [*self.text.tensors(), *(self.control.tensors() if self.control else ())]

    def shape(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(t.shape) for t in self.tensors())

    def copy(self) -> "StepInputs":
        """Return the same in memory of its own."""
        return StepInputs(self.text.copy(), self.control.copy() if self.control else None)

    def copy_(self, other: "StepInputs") -> None:
        """Take over the values of inputs of the same shapes."""
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            mine.copy_(theirs)


class Part(Enum):
    """A forward, or with a cache of the first block (`--cache`) the two that it is cut into."""

    WHOLE = auto()
    FIRST = (
        auto()
    )  # latents (B, C, h, w) -> the stream (M, D) after block 0, and what the block added
    REST = auto()  # latents, that stream -> the stream after the last block, and the velocity


@dataclass(frozen=True, slots=True)
class StepKind:
    """The kind of a forward: the block of a perturbed branch, a ControlNet's branch and order, and a part."""

    perturbed_layer: int | None = None
    control: EngineControl | None = None
    order: ControlOrder = ControlOrder.TRAINED
    part: Part = Part.WHOLE
    of: tuple[int, ...] = ()  # contexts that the part is run for, if not for all


PLAIN = StepKind()


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

    def condition(
        self, timestep: float, guidance: float | None, control: EngineControl | None = None
    ) -> Condition:
        """A timestep, embedded; `guidance` is Sprint's, already scaled."""
        t = torch.full((1,), timestep, device=self.final_table.device)
        e, t6 = self.time_embed(t, None if guidance is None else torch.full_like(t, guidance))
        own = None if control is None else control.condition(timestep)
        return Condition(e.float(), t6[0].float(), own)

    def text(self, contexts: Sequence[TextContext]) -> Text:
        """Compute what every step reads of the prompts."""
        return text_of(self.blocks, contexts, self.tables)

    def positions(self, h: int, w: int) -> Tensor | None:
        """Fixed positions (N, D) of the 2K and 4K models."""
        config = self.config
        if config.interpolation_scale is None:
            return None
        D = config.inner_dim
        table = sincos_positions(h, w, D, config.sample_size, config.interpolation_scale)
        return table.to(self.final_table.device, self.dtype)

    def run(
        self,
        given: Sequence[Tensor],
        condition: Condition,
        inputs: StepInputs,
        positions: Tensor | None,
        kind: StepKind = PLAIN,
    ) -> tuple[Tensor, ...]:
        """Run the part that `kind` says, of the tensors that `Part` lists for it."""
        if kind.part is Part.FIRST:
            (latents,) = given
            return self._first(latents, condition, inputs, positions)
        if kind.part is Part.REST:
            latents, x = given
            return self._rest(latents, x, condition, inputs, kind)
        (latents,) = given
        return (self.forward(latents, condition, inputs, positions, kind),)

    def forward(
        self,
        latents: Tensor,
        condition: Condition,
        inputs: StepInputs,
        positions: Tensor | None,
        kind: StepKind = PLAIN,
    ) -> Tensor:
        """Velocity (B, C, h, w) at latents (B, C, h, w).

        With a perturbed layer the text has the last context twice, and its rows follow once more.
        """
        x = self._embed(latents, positions)
        x, pending = self._through(range(len(self.blocks)), x, latents, condition, inputs, kind)
        return self.finish(x, condition, latents.shape[-2:], pending)

    def finish(
        self, x: Tensor, condition: Condition, grid: Sequence[int], pending: Pending | None = None
    ) -> Tensor:
        """The velocity (B, C, h, w) of the stream x (M, D) after the last block; adds `pending` to it."""
        shift, scale = (self.final_table + condition.e).split(1)
        branch, gate = pending or (None, None)
        x = self.kernels.layer_norm_modulate(
            x, shift, scale, eps=FINAL_EPS, branch=branch, gate=gate
        )
        return self.proj_out(x).view(-1, *grid, self.config.out_channels).permute(0, 3, 1, 2)

    def _first(
        self, latents: Tensor, condition: Condition, inputs: StepInputs, positions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x = self._embed(latents, positions)
        before = x.clone()
        x = added(*self._through(range(1), x, latents, condition, inputs, PLAIN))
        return x, x - before

    def _rest(
        self,
        latents: Tensor,
        x: Tensor,
        condition: Condition,
        inputs: StepInputs,
        kind: StepKind,
    ) -> tuple[Tensor, Tensor]:
        layers = range(1, len(self.blocks))
        x = added(*self._through(layers, x.clone(), latents, condition, inputs, kind))
        return x, self.finish(x, condition, latents.shape[-2:])

    def _embed(self, latents: Tensor, positions: Tensor | None) -> Tensor:
        x = self.patch_embed(latents)  # (B, N, D)
        if positions is not None:
            x += positions
        return x.flatten(0, 1)

    def _through(
        self,
        layers: range,
        x: Tensor,
        latents: Tensor,
        condition: Condition,
        inputs: StepInputs,
        kind: StepKind,
    ) -> tuple[Tensor, Pending | None]:
        """Update the stream x (M, D) by these blocks; returns it with what is still to be added."""
        B, _, h, w = latents.shape
        modulations = self.tables + condition.t6  # (layers, 6, D)
        text, perturbed = inputs.text, 0
        if kind.perturbed_layer is not None:
            perturbed, text = text.contexts[-1].batch, text.without_last()
        largest = None
        if any(self.blocks[layer].needs_largest for layer in layers):
            largest = modulations.new_zeros(len(self.blocks), 2, (B + perturbed) * h * w)
        branch_pass, pending = None, None
        if kind.control is not None:
            assert inputs.control is not None
            assert condition.control_t6 is not None
            branch_pass = kind.control.begin(
                latents, condition.control_t6, inputs.control, kind.order
            )
            if layers.start == 1:  # the branch was not begun with the first block
                x, pending = branch_pass.after(0, x, None)
        for layer in layers:
            block, more = self.blocks[layer], 0
            if layer == kind.perturbed_layer:
                more, text = perturbed, inputs.text
            rows = len(x) + more * h * w
            x, pending = block(
                x, pending, modulations[layer], text, layer, (h, w),
                largest[layer, :, :rows] if largest is not None and block.needs_largest else None,
                more,
            )  # fmt: skip
            if branch_pass is not None:
                x, pending = branch_pass.after(layer, x, pending)
        return x, pending
