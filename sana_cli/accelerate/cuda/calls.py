"""A call of the engine, and what calls of one shape share."""

# B batch, C latent channels, h w latent grid

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import is_

import torch
from torch import Tensor

from sana_cli.accelerate.cuda.control import inputs_of
from sana_cli.accelerate.cuda.graph import CapturedForward
from sana_cli.accelerate.cuda.transformer import EngineTransformer, StepInputs, StepKind
from sana_cli.models.block_cache import FirstBlockCache
from sana_cli.models.controlnet import ActiveControl
from sana_cli.models.sana_transformer import Control, SanaTransformer2D, TextContext


@dataclass(frozen=True, slots=True)
class Ask:
    """The arguments of a call, as of `SanaTransformer2D.velocity`."""

    latents: Tensor
    timestep: float
    contexts: Sequence[TextContext]
    guidance: float | None
    perturbed_layer: int | None
    control: Control | None

    @property
    def tokens(self) -> int:
        return self.latents[:, 0].numel()

    caches: Sequence[FirstBlockCache] = ()

    @property
    def what(self) -> tuple[int, bool, bool, bool]:
        """Return what decides whether the engine is right: the order of magnitude of tokens, further branches, and
        whether it runs in parts.
        """
        return (
            self.tokens.bit_length(), self.perturbed_layer is not None, self.control is not None,
            bool(self.caches),
        )  # fmt: skip

    def by(self, model: SanaTransformer2D) -> Tensor:
        """The velocity of the model's own forward."""
        return model.plain_velocity(
            self.latents, self.timestep, self.contexts, self.guidance, self.caches,
            self.perturbed_layer, self.control,
        )  # fmt: skip

    def inputs(self, transformer: EngineTransformer, kind: StepKind) -> StepInputs:
        """The texts, the last one twice for a perturbed branch, and what a ControlNet reads."""
        again = () if self.perturbed_layer is None else (self.contexts[-1],)
        text = transformer.text([*self.contexts, *again])
        if kind.control is None:
            return StepInputs(text)
        assert isinstance(self.control, ActiveControl)
        own = [context.control for context in self.contexts]
        return StepInputs(text, inputs_of(kind.control, self.control, own))

    def of(self, some: Sequence[int]) -> "Ask":
        """The same of these contexts alone, without caches."""
        parts = self.latents.split([context.batch for context in self.contexts])
        return replace(
            self, latents=torch.cat([parts[i] for i in some]), caches=(),
            contexts=[self.contexts[i] for i in some],
        )  # fmt: skip


@dataclass(slots=True)
class Prepared:
    """State shared by calls of one shape: the last texts and drawing, positions, and the graph if there is one."""

    shape: tuple[torch.Size, tuple[tuple[int, ...], ...]]  # of latents and inputs
    contexts: Sequence[TextContext]
    control: Control | None
    inputs: StepInputs
    positions: Tensor | None
    captured: CapturedForward | None = None

    def is_for(self, ask: Ask) -> bool:
        """Return whether shapes, texts and the drawing are unchanged, without comparing values."""
        same = len(ask.contexts) == len(self.contexts) and all(
            map(is_, ask.contexts, self.contexts)
        )
        return same and self.shape[0] == ask.latents.shape and self.control is ask.control
