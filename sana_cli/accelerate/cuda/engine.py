"""Replace a loaded transformer on a CUDA device: fused kernels, and a CUDA graph for each shape.

Everything is verified before use: kernels are compared with their definitions, the first velocity
with the model's own, and a replayed graph with what it recorded. What differs is not used, and a
notice says so.
"""

# B batch, C latent channels, h w latent grid

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_
from pathlib import Path

import torch
from torch import Tensor

from quant.backends.attempt import Failure, attempt
from quant.backends.verdicts import remembered
from quant.layers import QuantLinear
from sana_cli.accelerate.cuda.graph import CapturedForward
from sana_cli.accelerate.cuda.kernels import OF_FLOAT8, OF_TRANSFORMER, TRITON, Kernels
from sana_cli.accelerate.cuda.projection import Int8Projection, quantizing_apart_pays
from sana_cli.accelerate.cuda.text_attention import Text
from sana_cli.accelerate.cuda.transformer import Condition, EngineTransformer
from sana_cli.accelerate.cuda.trial import (
    Notice,
    Widths,
    exact_convolutions,
    relative_error,
    trusted_kernels,
    verdict,
)
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext

# Of the velocity's norm. Roundings add up over the blocks, and move some of the values that are quantized to the
# next integer: 28 blocks of random weights differ by 0.002 in fp32 with w8a8, 0.004 in fp16, 0.015 in bf16.
_TOLERANCE = {torch.float32: 0.02, torch.float16: 0.05, torch.bfloat16: 0.1}
# A graph keeps the memory of a forward until it is dropped, which the decoder of a large picture needs; and with
# so many tokens kernels take longer than their launches.
_MOST_CAPTURED = 16384
# Of a capture. The device is well after one that failed; without memory for a graph's own, a forward may still fit.
_NO_EXCUSE = (MemoryError,)


@dataclass(slots=True)
class _Prepared:
    """State shared by calls of one shape: the last texts, positions, and the graph if there is one."""

    shape: tuple[torch.Size, tuple[tuple[int, ...], ...]]  # of latents and text
    contexts: Sequence[TextContext]
    text: Text
    positions: Tensor | None
    captured: CapturedForward | None = None

    def is_for(self, latents: Tensor, contexts: Sequence[TextContext]) -> bool:
        """Return whether shapes and texts are unchanged, without comparing values."""
        same = len(contexts) == len(self.contexts) and all(map(is_, contexts, self.contexts))
        return same and self.shape[0] == latents.shape


def _kernels_of(model: SanaTransformer2D) -> tuple[str, ...]:
    """The kernels that a model may need: devices that lack products of 8-bit floats need not be asked for them."""
    layers = (m for m in model.modules() if isinstance(m, QuantLinear))
    float8 = any(layer.config.scheme.floats for layer in layers)
    return (*OF_TRANSFORMER, *OF_FLOAT8) if float8 else OF_TRANSFORMER


class Engine:
    """The velocity of one model. Keeps embedded timesteps, and for both branches and for one of them a graph of the
    last shape: guidance may be limited to some of the steps.
    """

    def __init__(
        self,
        model: SanaTransformer2D,
        *,
        notice: Notice,
        verdicts: Path | None = None,
        candidates: Kernels = TRITON,
        graphs: bool = True,
    ) -> None:
        self._model = weakref.ref(model)
        self.notice, self.verdicts = notice, verdicts
        self.dtype = model.proj_out.weight.dtype
        self.device = model.proj_out.weight.device
        config = model.config
        widths = Widths(
            config.inner_dim,
            config.ff_dim,
            config.attention_head_dim,
            config.cross_attention_head_dim,
        )
        kernels = trusted_kernels(
            widths, self.dtype, self.device, verdicts=verdicts, notice=notice,
            candidates=candidates, names=_kernels_of(model),
        )  # fmt: skip
        self.transformer = EngineTransformer(model, kernels)
        self._choose_quantizers()
        self.graphs = graphs
        self.summary = "native engine"
        self._conditions: dict[tuple[float, float | None], Condition] = {}
        self._prepared: dict[tuple[bool, ...], _Prepared] = {}
        self._is_right: dict[int, bool] = {}  # by the order of magnitude of tokens

    def velocity(
        self,
        latents: Tensor,
        timestep: float,
        contexts: Sequence[TextContext],
        guidance: float | None,
    ) -> Tensor:
        """Compute the velocity (B, C, H, W), as `SanaTransformer2D.velocity` does."""
        tokens = latents[:, 0].numel()
        is_right = self._is_right.get(tokens.bit_length())
        if is_right is False:
            return self.model.plain_velocity(latents, timestep, contexts, guidance)
        condition = self._condition(timestep, guidance)
        ready = self._prepare(latents, contexts)
        if is_right is None:
            found = self._agrees(latents, timestep, guidance, condition, ready)
            self._is_right[tokens.bit_length()] = found
            return self.velocity(latents, timestep, contexts, guidance)
        if self.graphs and ready.captured is None and tokens <= _MOST_CAPTURED:
            self._capture(latents, condition, ready)
        if ready.captured is not None:
            return ready.captured(latents, condition)
        return self.transformer.forward(latents, condition, ready.text, ready.positions)

    def _choose_quantizers(self) -> None:
        """Let the text's output products quantize their inputs in the way that is faster here; all of them are alike."""
        parts = [block.text.out for block in self.transformer.blocks if block.needs_largest]
        found = [part for part in parts if isinstance(part, Int8Projection)]
        if found and quantizing_apart_pays(found[0], self.device, verdicts=self.verdicts):
            for part in found:
                part.quantizes_apart = True

    def _condition(self, timestep: float, guidance: float | None) -> Condition:
        """Embedded once: every picture of a run has the same timesteps."""
        key = (timestep, guidance)
        if key not in self._conditions:
            self._conditions[key] = self.transformer.condition(timestep, guidance)
        return self._conditions[key]

    def _prepare(self, latents: Tensor, contexts: Sequence[TextContext]) -> _Prepared:
        """The texts as the engine reads them; drops a graph of another shape."""
        kind = tuple(bool(context.constants) for context in contexts)  # which branches
        known = self._prepared.get(kind)
        if known is not None and known.is_for(latents, contexts):
            return known
        text = self.transformer.text(contexts)
        shape = (latents.shape, text.shape())
        if known is not None and known.shape == shape:
            known.contexts, known.text = tuple(contexts), text
            if known.captured is not None:
                known.captured.use_text(text)
            return known
        size = latents.shape[-2:]
        others = {k: v for k, v in self._prepared.items() if k != kind and v.shape[0][-2:] == size}
        ready = _Prepared(shape, tuple(contexts), text, self.transformer.positions(*size))
        self._prepared = {**others, kind: ready}
        return ready

    def _capture(self, latents: Tensor, condition: Condition, ready: _Prepared) -> None:
        def forward(latents: Tensor, condition: Condition, text: Text) -> Tensor:
            return self.transformer.forward(latents, condition, text, ready.positions)

        captured = attempt(
            lambda: CapturedForward(forward, latents, condition, ready.text), fatal=_NO_EXCUSE
        )
        if isinstance(captured, Failure):
            self.graphs = False
            self.notice(f"no CUDA graph ({captured.reason}); every kernel is launched by itself")
            return
        ready.captured = captured
        self.summary = f"native engine, CUDA graph captured in {captured.seconds:.2f} s"

    def _agrees(
        self,
        latents: Tensor,
        timestep: float,
        guidance: float | None,
        condition: Condition,
        ready: _Prepared,
    ) -> bool:
        """Return whether the forward matches the model's; tried once for each device, structure and order of tokens."""
        kind = (
            f"engine forward {self.transformer.projections} {self.dtype} {self.transformer.config} "
            f"below {2 ** latents[:, 0].numel().bit_length()} tokens"
        )

        def decide() -> str:
            with exact_convolutions():
                expected = self.model.plain_velocity(latents, timestep, ready.contexts, guidance)

            def error() -> float:
                out = self.transformer.forward(latents, condition, ready.text, ready.positions)
                return relative_error(out, expected)

            return verdict(attempt(error), _TOLERANCE[self.dtype])

        found = remembered(kind, self.device, decide, verdicts=self.verdicts)
        if found != "right":
            self.notice(f"the engine {found} on this device; plain PyTorch runs instead")
        return found == "right"

    @property
    def model(self) -> SanaTransformer2D:
        """The model that this engine runs. The model holds the engine; the engine holds the model weakly."""
        model = self._model()
        assert model is not None
        return model
