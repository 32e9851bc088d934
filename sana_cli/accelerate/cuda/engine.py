"""Replace a loaded transformer on a CUDA device: fused kernels, and a CUDA graph for each shape.

Everything is verified before use: kernels are compared with their definitions, the first velocity
with the model's own, and a replayed graph with what it recorded. What differs is not used, and a
notice says so.
"""

# B batch, C latent channels, h w latent grid

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from quant.backends.attempt import Failure, attempt
from quant.backends.verdicts import remembered
from quant.layers import QuantLinear
from sana_cli.accelerate.cuda.blocks import EngineBlock
from sana_cli.accelerate.cuda.calls import Ask, Prepared
from sana_cli.accelerate.cuda.control import EngineControl
from sana_cli.accelerate.cuda.first_block import by_parts
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
from sana_cli.models.block_cache import FirstBlockCache
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


_Step = Callable[[Ask, StepKind, Condition, Sequence[Tensor]], tuple[Tensor, ...]]


def _kernels_of(model: SanaTransformer2D) -> tuple[str, ...]:
    """The kernels that a model may need: devices that lack products of 8-bit floats need not be asked for them."""
    layers = (m for m in model.modules() if isinstance(m, QuantLinear))
    float8 = any(layer.config.scheme.floats for layer in layers)
    return (*OF_TRANSFORMER, *OF_FLOAT8) if float8 else OF_TRANSFORMER


class Engine:
    """The velocity of one model. Keeps embedded timesteps, and for both branches and for one of them a graph of the
    last shape: guidance may be limited to some of the steps. With caches there is a graph of the first block and one of
    the others, which is not replayed where a cache holds what it would add.
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
        self._prepared: dict[tuple[tuple[bool, ...], StepKind], Prepared] = {}
        self._is_right: dict[tuple[int, bool, bool, bool], bool] = {}  # by `Ask.what`
        self._controls: WeakKeyDictionary[SanaControlNet, EngineControl] = WeakKeyDictionary()

    def velocity(
        self,
        latents: Tensor,
        timestep: float,
        contexts: Sequence[TextContext],
        guidance: float | None,
        perturbed_layer: int | None = None,
        control: Control | None = None,
        caches: Sequence[FirstBlockCache] = (),
    ) -> Tensor:
        """Compute the velocity (B, C, H, W), as `SanaTransformer2D.velocity` does."""
        ask = Ask(latents, timestep, contexts, guidance, perturbed_layer, control, caches)
        if ask.what not in self._is_right:
            self._is_right[ask.what] = self._agrees(ask)
        return self._velocity(ask, self._step) if self._is_right[ask.what] else ask.by(self.model)

    def _velocity(self, ask: Ask, step: _Step) -> Tensor:
        """The velocity by forwards that `step` runs."""
        kind = self._kind(ask)
        condition = self._condition(ask.timestep, ask.guidance, kind)
        if not ask.caches:
            return step(ask, kind, condition, (ask.latents,))[0]

        def run(kind: StepKind, *more: Tensor) -> tuple[Tensor, ...]:
            part = ask.of(kind.of) if kind.of else ask
            return step(part, kind, condition, (part.latents, *more))

        def finish(x: Tensor) -> Tensor:
            return self.transformer.finish(x, condition, ask.latents.shape[-2:])

        batches = [context.batch for context in ask.contexts]
        return by_parts(kind, batches, ask.caches, run, finish)

    def _step(
        self,
        ask: Ask,
        kind: StepKind,
        condition: Condition,
        given: Sequence[Tensor],
        *,
        as_graph: bool = True,
    ) -> tuple[Tensor, ...]:
        """Run a forward or a part of it; as a graph where that is possible."""
        ready = self._prepare(ask, kind)
        as_graph = as_graph and self.graphs and ask.tokens <= _MOST_CAPTURED
        if as_graph and ready.captured is None:
            self._capture(given, condition, ready, kind)
        if as_graph and ready.captured is not None:
            return ready.captured(given, condition)
        return self.transformer.run(given, condition, ready.inputs, ready.positions, kind)

    def _kind(self, ask: Ask) -> StepKind:
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

    def _prepare(self, ask: Ask, kind: StepKind) -> Prepared:
        """The inputs as the engine reads them; drops a graph of another shape."""
        key = tuple(bool(context.constants) for context in ask.contexts), kind  # which branches
        known = self._prepared.get(key)
        if known is not None and known.is_for(ask):
            return known
        inputs = ask.inputs(self.transformer, kind)
        shape = (ask.latents.shape, inputs.shape())
        if known is not None and known.shape == shape:
            known.contexts, known.control, known.inputs = tuple(ask.contexts), ask.control, inputs
            if known.captured is not None:
                known.captured.use_inputs(inputs)
            return known
        size = ask.latents.shape[-2:]
        others = {k: v for k, v in self._prepared.items() if k != key and v.shape[0][-2:] == size}
        positions = self.transformer.positions(*size)
        ready = Prepared(shape, tuple(ask.contexts), ask.control, inputs, positions)
        self._prepared = {**others, key: ready}
        return ready

    def _capture(
        self, given: Sequence[Tensor], condition: Condition, ready: Prepared, kind: StepKind
    ) -> None:
        def forward(
            given: Sequence[Tensor], condition: Condition, inputs: StepInputs
        ) -> tuple[Tensor, ...]:
            return self.transformer.run(given, condition, inputs, ready.positions, kind)

        captured = attempt(
            lambda: CapturedForward(forward, given, condition, ready.inputs), fatal=_NO_EXCUSE
        )
        if isinstance(captured, Failure):
            self.graphs = False
            self.notice(f"no CUDA graph ({captured.reason}); every kernel is launched by itself")
            return
        ready.captured = captured
        self.summary = f"native engine, CUDA graph captured in {captured.seconds:.2f} s"

    def _agrees(self, ask: Ask) -> bool:
        """Return whether the forward matches the model's; tried once for each device, structure and order of tokens."""
        tokens, perturbed, controlled, in_parts = ask.what
        further = " perturbed" * perturbed + f" control {self._kind(ask).order}" * controlled
        further += " in parts" * in_parts
        # Caches of its own: nothing is there to be used again, and the run's caches stay as they are.
        ask = replace(ask, caches=[FirstBlockCache(0.0) for _ in ask.caches])
        name = (
            f"engine forward {self.transformer.projections} {self.dtype} {self.transformer.config} "
            f"below {2**tokens} tokens{further}"
        )

        def decide() -> str:
            with exact_convolutions():
                expected = ask.by(self.model)

            launched = partial(self._step, as_graph=False)

            def error() -> float:
                return relative_error(self._velocity(ask, launched), expected)

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
