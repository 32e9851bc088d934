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
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from quant.backends.attempt import Failure, attempt
from quant.backends.verdicts import remembered
from quant.layers import QuantLinear
from sana_cli.accelerate.cuda.blocks import EngineBlock
from sana_cli.accelerate.cuda.control import EngineControl, inputs_of
from sana_cli.accelerate.cuda.graph import CapturedForward
from sana_cli.accelerate.cuda.kernels import OF_FLOAT8, OF_TRANSFORMER, TRITON, Kernels
from sana_cli.accelerate.cuda.projection import Int8Projection, quantizing_apart_pays
from sana_cli.accelerate.cuda.transformer import (
    PLAIN,
    Condition,
    EngineTransformer,
    StepInputs,
    StepKind,
)
from sana_cli.accelerate.cuda.trial import (
    Notice,
    Widths,
    exact_convolutions,
    relative_error,
    trusted_kernels,
    verdict,
)
from sana_cli.models.controlnet import ActiveControl, SanaControlNet
from sana_cli.models.sana_transformer import Control, SanaTransformer2D, TextContext

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
    """State shared by calls of one shape: the last texts and drawing, positions, and the graph if there is one."""

    shape: tuple[torch.Size, tuple[tuple[int, ...], ...]]  # of latents and inputs
    contexts: Sequence[TextContext]
    control: Control | None
    inputs: StepInputs
    positions: Tensor | None
    captured: CapturedForward | None = None

    def is_for(self, ask: "_Ask") -> bool:
        """Return whether shapes, texts and the drawing are unchanged, without comparing values."""
        same = len(ask.contexts) == len(self.contexts) and all(
            map(is_, ask.contexts, self.contexts)
        )
        return same and self.shape[0] == ask.latents.shape and self.control is ask.control


@dataclass(frozen=True, slots=True)
class _Ask:
    """A call of `Engine.velocity`."""

    latents: Tensor
    timestep: float
    contexts: Sequence[TextContext]
    guidance: float | None
    perturbed_layer: int | None
    control: Control | None

    @property
    def tokens(self) -> int:
        return self.latents[:, 0].numel()

    @property
    def what(self) -> tuple[int, bool, bool]:
        """Return what decides whether the engine is right: the order of magnitude of tokens, and further branches."""
        return (
            self.tokens.bit_length(), self.perturbed_layer is not None, self.control is not None,
        )  # fmt: skip

    def by(self, model: SanaTransformer2D) -> Tensor:
        """The velocity of the model's own forward."""
        return model.plain_velocity(
            self.latents, self.timestep, self.contexts, self.guidance, (), self.perturbed_layer,
            self.control,
        )  # fmt: skip


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
        self.kernels = trusted_kernels(
            widths, self.dtype, self.device, verdicts=verdicts, notice=notice,
            candidates=candidates, names=_kernels_of(model),
        )  # fmt: skip
        self.transformer = EngineTransformer(model, self.kernels)
        self._choose_quantizers()
        self.graphs = graphs
        self.summary = "native engine"
        self._conditions: dict[tuple[float, float | None, EngineControl | None], Condition] = {}
        self._prepared: dict[tuple[tuple[bool, ...], StepKind], _Prepared] = {}
        self._is_right: dict[tuple[int, bool, bool], bool] = {}  # by `_Ask.what`
        self._controls: WeakKeyDictionary[SanaControlNet, EngineControl] = WeakKeyDictionary()

    def velocity(
        self,
        latents: Tensor,
        timestep: float,
        contexts: Sequence[TextContext],
        guidance: float | None,
        perturbed_layer: int | None = None,
        control: Control | None = None,
    ) -> Tensor:
        """Compute the velocity (B, C, H, W), as `SanaTransformer2D.velocity` does."""
        ask = _Ask(latents, timestep, contexts, guidance, perturbed_layer, control)
        if self._is_right.get(ask.what) is False:
            return ask.by(self.model)
        kind = self._kind(ask)
        condition = self._condition(timestep, guidance, kind)
        ready = self._prepare(ask, kind)
        if ask.what not in self._is_right:
            self._is_right[ask.what] = self._agrees(ask, condition, ready, kind)
            return self.velocity(latents, timestep, contexts, guidance, perturbed_layer, control)
        if self.graphs and ready.captured is None and ask.tokens <= _MOST_CAPTURED:
            self._capture(latents, condition, ready, kind)
        if ready.captured is not None:
            return ready.captured(latents, condition)
        return self.transformer.forward(latents, condition, ready.inputs, ready.positions, kind)

    def _kind(self, ask: _Ask) -> StepKind:
        """Return how the forward runs; a ControlNet's blocks are made ready once."""
        control = ask.control
        if control is None and ask.perturbed_layer is None:
            return PLAIN
        if control is None:
            return StepKind(ask.perturbed_layer)
        assert isinstance(control, ActiveControl)
        if control.net not in self._controls:
            own = EngineControl(control.net, self.kernels, self.dtype)
            for block in own.blocks:
                self._quantize_apart(block)
            self._controls[control.net] = own
        return StepKind(ask.perturbed_layer, self._controls[control.net], control.order)

    def _choose_quantizers(self) -> None:
        """Let the text's output products quantize their inputs in the way that is faster here; all of them are alike."""
        parts = [block.text.out for block in self.transformer.blocks if block.needs_largest]
        found = [part for part in parts if isinstance(part, Int8Projection)]
        self._is_apart = bool(found) and quantizing_apart_pays(
            found[0], self.device, verdicts=self.verdicts
        )
        for block in self.transformer.blocks:
            self._quantize_apart(block)

    def _quantize_apart(self, block: EngineBlock) -> None:
        if self._is_apart and block.needs_largest and isinstance(block.text.out, Int8Projection):
            block.text.out.quantizes_apart = True

    def _condition(self, timestep: float, guidance: float | None, kind: StepKind) -> Condition:
        """Embedded once: every picture of a run has the same timesteps."""
        key = (timestep, guidance, kind.control)
        if key not in self._conditions:
            self._conditions[key] = self.transformer.condition(timestep, guidance, kind.control)
        return self._conditions[key]

    def _prepare(self, ask: _Ask, kind: StepKind) -> _Prepared:
        """The inputs as the engine reads them; drops a graph of another shape."""
        key = tuple(bool(context.constants) for context in ask.contexts), kind  # which branches
        known = self._prepared.get(key)
        if known is not None and known.is_for(ask):
            return known
        inputs = self._inputs(ask, kind)
        shape = (ask.latents.shape, inputs.shape())
        if known is not None and known.shape == shape:
            known.contexts, known.control, known.inputs = tuple(ask.contexts), ask.control, inputs
            if known.captured is not None:
                known.captured.use_inputs(inputs)
            return known
        size = ask.latents.shape[-2:]
        others = {k: v for k, v in self._prepared.items() if k != key and v.shape[0][-2:] == size}
        positions = self.transformer.positions(*size)
        ready = _Prepared(shape, tuple(ask.contexts), ask.control, inputs, positions)
        self._prepared = {**others, key: ready}
        return ready

    def _inputs(self, ask: _Ask, kind: StepKind) -> StepInputs:
        """The texts, the last one twice for a perturbed branch, and what a ControlNet reads."""
        again = () if ask.perturbed_layer is None else (ask.contexts[-1],)
        text = self.transformer.text([*ask.contexts, *again])
        if kind.control is None:
            return StepInputs(text)
        assert isinstance(ask.control, ActiveControl)
        own = [context.control for context in ask.contexts]
        return StepInputs(text, inputs_of(kind.control, ask.control, own))

    def _capture(
        self, latents: Tensor, condition: Condition, ready: _Prepared, kind: StepKind
    ) -> None:
        def forward(latents: Tensor, condition: Condition, inputs: StepInputs) -> Tensor:
            return self.transformer.forward(latents, condition, inputs, ready.positions, kind)

        captured = attempt(
            lambda: CapturedForward(forward, latents, condition, ready.inputs), fatal=_NO_EXCUSE
        )
        if isinstance(captured, Failure):
            self.graphs = False
            self.notice(f"no CUDA graph ({captured.reason}); every kernel is launched by itself")
            return
        ready.captured = captured
        self.summary = f"native engine, CUDA graph captured in {captured.seconds:.2f} s"

    def _agrees(self, ask: _Ask, condition: Condition, ready: _Prepared, kind: StepKind) -> bool:
        """Return whether the forward matches the model's; tried once for each device, structure and order of tokens."""
        tokens, perturbed, controlled = ask.what
        further = " perturbed" * perturbed + f" control {kind.order}" * controlled
        name = (
            f"engine forward {self.transformer.projections} {self.dtype} {self.transformer.config} "
            f"below {2**tokens} tokens{further}"
        )

        def decide() -> str:
            with exact_convolutions():
                expected = ask.by(self.model)

            def error() -> float:
                out = self.transformer.forward(
                    ask.latents, condition, ready.inputs, ready.positions, kind
                )
                return relative_error(out, expected)

            return verdict(attempt(error), _TOLERANCE[self.dtype])

        found = remembered(name, self.device, decide, verdicts=self.verdicts)
        if found != "right":
            self.notice(f"the engine {found} on this device; plain PyTorch runs instead")
        return found == "right"

    @property
    def model(self) -> SanaTransformer2D:
        """The model that this engine runs. The model holds the engine; the engine holds the model weakly."""
        model = self._model()
        assert model is not None
        return model
