"""Faults to plant into the engine, each a line that someone could write, and what must notice it.

A rehearsal proves as much as it catches: `test_faults.py` plants each and asks for evidence, and finds none without a fault.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.backends.attempt import Failure, attempt
from quant.kernels.depthwise3x3_glu import kernel as depthwise
from sana_cli.accelerate.cuda import text_attention, text_graph
from sana_cli.accelerate.cuda.blocks import EngineBlock
from sana_cli.accelerate.cuda.engine import Engine
from sana_cli.accelerate.cuda.graph import CapturedForward
from sana_cli.accelerate.cuda.text_attention import Text, TextAttention
from sana_cli.accelerate.cuda.text_graph import replay_texts
from sana_cli.accelerate.cuda.transformer import Condition, EngineTransformer
from sana_cli.accelerate.cuda.trial import relative_error
from sana_cli.config.choices import ControlOrder
from sana_cli.models.sana_transformer import TextContext
from sana_cli.pipeline import SanaPipeline
from tests.rehearsal import scenarios
from tests.rehearsal.device import Device
from tests.rehearsal.streams import Stream
from tests.unit.accelerate.cuda.test_text_encoder import gemma

Function = Callable[..., Any]
Plant = Callable[[pytest.MonkeyPatch], None]


# -- where a fault would show ------------------------------------------------------------------------


def steps(gpu: Device, scheme: str = "none", **config: Any) -> str:
    """Draw steps of two prompts: an error, a notice, a race, wrong values, or captures too many."""
    found = attempt(lambda: scenarios.rehearse(scheme, prompts=2, **config), fatal=())
    if isinstance(found, Failure):
        return f"error: {found.reason}"
    error, notices = found
    captures = gpu.counts["captures"]
    return (
        (notices and f"notice: {notices[0]}")
        or (gpu.streams.races and f"race: {gpu.streams.races[0]}")
        or (not error <= scenarios.LIMIT and f"values: off by {error:.2g}")
        or (captures > 2 and f"counts: {captures} captures of 2 kinds of branches")
        or ""
    )


def further(gpu: Device, **options: Any) -> str:
    """Draw steps with a ControlNet or a perturbed branch."""
    found = attempt(lambda: scenarios.rehearse_further(pictures=2, **options), fatal=())
    if isinstance(found, Failure):
        return f"error: {found.reason}"
    error, notices = found
    return (
        (notices and f"notice: {notices[0]}")
        or (gpu.streams.races and f"race: {gpu.streams.races[0]}")
        or (not error <= scenarios.LIMIT and f"values: off by {error:.2g}")
        or ""
    )


def costs(gpu: Device) -> str:
    """Count what a step costs beside its replay."""
    last = scenarios.costs(gpu)[-1]
    return "" if last == {"operations": 4, "replays": 1} else f"counts: {last} in a step"


def velocities(gpu: Device) -> str:
    return "" if scenarios.keeps_velocities() else "values: a velocity changes with the next step"


def texts(gpu: Device) -> str:
    """Encode prompts that follow an instruction, the later ones by a graph."""
    untouched, model = gemma(), gemma().cuda()
    replay_texts(model, notice=lambda line: None)
    ids, worst = torch.arange(12)[None], 0.0
    with torch.inference_mode():
        pasts = [m(ids[:, :6].to(m.norm.weight.device), keep=True)[1] for m in (untouched, model)]
        for length in (3, 4, 6, 2):
            prompt = ids[:, 6 : 6 + length] * length % 30
            expected = untouched(prompt, pasts[0])[0]
            worst = max(worst, relative_error(model(prompt.cuda(), pasts[1])[0].cpu(), expected))
    return "" if worst < 1e-5 else f"values: off by {worst:.2g}"


def pictures(gpu: Device, **runtime: Any) -> str:
    """Draw with the built-in model, close it, and look at what is left."""
    seen = []
    for device in ("cpu", "cuda"):
        options = {"precision": "fp32", "prompt_cache": False} | runtime
        with SanaPipeline.open("builtin", device=device, **options) as pipe:
            result = attempt(lambda: pipe("a fox", seed=3, steps=2, width=64, height=64), fatal=())
        if isinstance(result, Failure):
            return f"error: {result.reason}"
        seen.append(np.asarray(result.image).astype(int))
    difference = np.abs(seen[0] - seen[1]).max()
    return (
        (gpu.streams.races and f"race: {gpu.streams.races[0]}")
        or (difference > 1 and f"values: {difference} of 255")
        or (gpu.memory.fraction != 1 and f"state: {gpu.memory.fraction:.1%} of the memory may be used")
        or (gpu.memory.used and f"state: {gpu.memory.used} bytes are kept")
        or ""
    )  # fmt: skip


# -- how each is planted -----------------------------------------------------------------------------


def _patched(place: Any, name: str, change: Callable[[Function], Function]) -> Plant:
    return lambda patch: patch.setattr(place, name, change(getattr(place, name)))


def _before(act: Callable[[Tensor], object]) -> Callable[[Function], Function]:
    """Do something with a block's tokens before it runs."""

    def change(block: Function) -> Function:
        def call(self: Any, x: Tensor, *rest: Any) -> Any:
            act(x)
            return block(self, x, *rest)

        return call

    return change


def _unaligned_in_capture(block: Function) -> Function:
    """A buffer that begins at another address while recording: kernels are compiled anew for it."""

    def call(self: Any, x: Tensor, *rest: Any) -> Any:
        if torch.cuda.is_current_stream_capturing():
            other = x.new_zeros(x.numel() + 1)[1:].view(x.shape)
            x.copy_(other.copy_(x))
            block(self, other, *rest)
        return block(self, x, *rest)

    return call


def _kept_state(forward: Function) -> Function:
    """State of one step that the next one finds."""
    kept: list[Tensor] = []

    def call(self: Any, latents: Tensor, *rest: Any) -> Tensor:
        out = forward(self, latents, *rest)
        if not kept or kept[0].shape != out.shape:
            kept[:] = [torch.zeros_like(out)]
        kept[0].add_(out)
        return kept[0] + 0 * out

    return call


def _own_latents(call: Function) -> Function:
    return lambda self, given, condition: call(self, [t.clone() for t in self._given], condition)


def _own_condition(call: Function) -> Function:
    return lambda self, given, condition: call(self, given, self._condition.copy())


def _not_copied(call: Function) -> Function:
    def replay(self: Any, given: Sequence[Tensor], condition: Condition) -> tuple[Tensor, ...]:
        call(self, given, condition)
        return tuple(self._recording._results)

    return replay


def _on_another_stream(call: Function) -> Function:
    def replay(self: Any, latents: Tensor, condition: Condition) -> Tensor:
        with torch.cuda.stream(torch.cuda.Stream()):
            return call(self, latents, condition)

    return replay


def _attending(attend: Function) -> Function:
    """A perturbed branch that is none."""

    def call(self: Any, h: Any, B: int, perturbed: int) -> Tensor:
        attended = attend(self, h, B, 0)
        rows = len(attended) // B * perturbed
        return torch.cat([attended, attended[len(attended) - rows :]]) if rows else attended

    return call


def _unmasked(text: Function) -> Function:
    def call(self: Any, contexts: Sequence[TextContext]) -> Text:
        found = text(self, contexts)
        return Text.of([replace(c, mask=None) for c in found.contexts], found.addends)

    return call


def _syncs(velocity: Function) -> Function:
    def call(self: Any, latents: Tensor, *rest: Any) -> Tensor:
        out = velocity(self, latents, *rest)
        assert float(out.sum()) == float(out.sum()), "a check that someone meant well"
        return out

    return call


def _waits_one_way(wait: Function) -> Function:
    """The stream of the warm-up does not wait for the inputs that the default one copies."""
    from tests.rehearsal.device import device

    return lambda self, other: wait(self, other) if self is device().streams.default else None


def _other_text(start: Function) -> Function:
    """What was captured is freed, and prompts are copied to where no graph reads."""

    def call(self: CapturedForward, *arguments: Any) -> None:
        start(self, *arguments)
        self._inputs = self._inputs.copy()

    return call


def _from_another_stream(load: Function) -> Function:
    """Blocks are read on a stream of the reader's own, for which no one waits."""

    def call(*arguments: Any, **named: Any) -> Any:
        with torch.cuda.stream(torch.cuda.Stream()):
            return load(*arguments, **named)

    return call


def _unwritten(forward: Function) -> Function:
    """Magnitudes that are raised from what was in memory before."""

    def call(*arguments: Any) -> Tensor:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(Tensor, "new_zeros", Tensor.new_empty)
            return forward(*arguments)

    return call


def _without_bias(launch: Function) -> Function:
    """A kernel that forgets an argument."""
    return lambda x, weight, bias, *rest: launch(x, weight, torch.zeros_like(bias), *rest)


def _stays(limit: Function) -> Function:
    """A cap that is set and not taken back."""
    return lambda fraction, device=None: limit(fraction, device) if fraction < 1 else None


def _kept_for_ever(start: Function) -> Function:
    """A list of the process that holds every graph."""
    graphs: list[CapturedForward] = []

    def call(self: CapturedForward, *arguments: Any) -> None:
        start(self, *arguments)
        graphs.append(self)

    return call


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A mutation, where it must show, and as what: the first word of the evidence."""

    plant: Plant
    shows: str  # error | notice | race | values | counts | state
    look: Callable[[Device], str] = steps
    is_quick: bool = False


_block, _replay = EngineBlock, CapturedForward
FAULTS: dict[str, Fault] = {
    "a replayed text of the prompt before": Fault(
        plant=_patched(
            text_graph._Graph, "__call__",
            lambda call: lambda self, x: call(self, self._x[:, : x.shape[1]].clone()),
        ),
        shows="values", look=texts, is_quick=True,
    ),
    "a host sync while capturing": Fault(
        plant=_patched(_block, "__call__", _before(lambda x: float(x.sum()))), shows="notice", is_quick=True,
    ),
    "an upload while capturing": Fault(
        plant=_patched(_block, "__call__", _before(lambda x: x.add_(torch.zeros(x.shape[-1]).to(x.device)))),
        shows="notice",
    ),
    "random numbers while capturing": Fault(
        plant=_patched(_block, "__call__", _before(lambda x: x.add_(torch.rand_like(x), alpha=0.0))), shows="notice",
    ),
    "a kernel that is first compiled while capturing": Fault(
        plant=_patched(_block, "__call__", _unaligned_in_capture), shows="notice", is_quick=True,
    ),
    "a tensor of the host": Fault(
        plant=_patched(_block, "__call__", _before(lambda x: x.add_(torch.zeros(x.shape[-1])))), shows="notice",
    ),
    "a kernel that forgets its bias": Fault(
        plant=_patched(depthwise, "launch", _without_bias), shows="notice"),
    "no stream waits": Fault(plant=_patched(Stream, "wait_stream", lambda wait: lambda self, other: None), shows="race"),
    "a wait that is missing one way": Fault(
        plant=_patched(Stream, "wait_stream", _waits_one_way), shows="race", is_quick=True,
    ),
    "a replay on a stream of its own": Fault(plant=_patched(_replay, "__call__", _on_another_stream), shows="race"),
    "blocks that are read on another stream": Fault(
        plant=_patched(torch.nn.Module, "load_state_dict", _from_another_stream), shows="race",
        look=lambda gpu: pictures(gpu, plan="streamed"),
    ),
    "a graph that reads memory which is freed": Fault(plant=_patched(_replay, "__init__", _other_text), shows="race"),
    "stale latents": Fault(plant=_patched(_replay, "__call__", _own_latents), shows="values", is_quick=True),
    "a stale timestep": Fault(plant=_patched(_replay, "__call__", _own_condition), shows="values"),
    "a stale prompt": Fault(plant=_patched(_replay, "use_inputs", lambda use: lambda self, inputs: None), shows="values"),
    "a stale drawing": Fault(
        plant=_patched(_replay, "use_inputs", lambda use: lambda self, inputs: self._inputs.text.copy_(inputs.text)),
        shows="values", look=lambda gpu: further(gpu, order=ControlOrder.TRAINED),
    ),
    "a perturbed branch that attends": Fault(
        plant=_patched(_block, "_attend", _attending), shows="notice", is_quick=True,
        look=lambda gpu: further(gpu, perturbed_layer=1),
    ),
    "state from step to step": Fault(plant=_patched(EngineTransformer, "forward", _kept_state), shows="notice"),
    "memory that nobody wrote": Fault(
        plant=_patched(EngineTransformer, "forward", _unwritten), shows="notice", look=lambda gpu: steps(gpu, "w8a8"),
    ),
    "padding that is attended to": Fault(plant=_patched(EngineTransformer, "text", _unmasked), shows="notice"),
    "the text of another layer": Fault(
        plant=_patched(TextAttention, "add_to", lambda add: lambda self, x, text, layer, *of: add(self, x, text, 0, *of)),
        shows="notice",
    ),
    "no positions": Fault(
        plant=_patched(EngineTransformer, "positions", lambda positions: lambda self, h, w: None), shows="notice",
        look=lambda gpu: steps(gpu, interpolation_scale=2.0),
    ),
    "a velocity in the graph's memory": Fault(
        plant=_patched(_replay, "__call__", _not_copied), shows="values", look=velocities, is_quick=True,
    ),
    "a graph for each length of text": Fault(
        plant=_patched(text_attention, "_LENGTHS", lambda lengths: ()), shows="counts",
    ),
    "a host sync in each step": Fault(plant=_patched(Engine, "velocity", _syncs), shows="counts", look=costs),
    "a cap that stays": Fault(
        plant=_patched(torch.cuda, "set_per_process_memory_fraction", _stays), shows="state", look=lambda gpu: pictures(gpu, max_memory="400MiB"),
    ),
    "graphs that are kept for ever": Fault(plant=_patched(_replay, "__init__", _kept_for_ever), shows="state", look=pictures),
}  # fmt: skip
