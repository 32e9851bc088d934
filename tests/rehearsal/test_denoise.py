"""The engine with its graph on the simulated device: every variant, scheme and change between steps, and planted faults."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from quant.backends.attempt import Failure, attempt
from sana_cli.accelerate.cuda.engine import Engine
from sana_cli.accelerate.cuda.graph import CapturedForward
from sana_cli.accelerate.cuda.text_attention import Text, TextAttention
from sana_cli.accelerate.cuda.transformer import Condition, EngineBlock, EngineTransformer
from sana_cli.accelerate.cuda.trial import relative_error
from sana_cli.models.sana_transformer import TextContext
from tests.rehearsal.device import Device
from tests.rehearsal.streams import Stream
from tests.unit.accelerate.cuda.models import inputs, transformer

QK_NORM = {"qk_norm": "rms_norm_across_heads"}
LIMIT = 5e-3  # w8a8: an fp32 rounding moves a few values to the next integer
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "qk norm": QK_NORM,
    "positions": {"interpolation_scale": 2.0},
    "sprint": QK_NORM | {"guidance_embeds": True},
}


def on_device(contexts: Sequence[TextContext]) -> list[TextContext]:
    return [
        TextContext(
            c.batch,
            *([t.cuda() for t in tensors] for tensors in (c.keys, c.values, c.constants)),
            None if c.mask is None else c.mask.cuda(),
        )
        for c in contexts
    ]


def rehearse(
    scheme: str = "none", dtype: torch.dtype = torch.float32, *, prompts: int = 4, **config: Any
) -> tuple[float, list[str]]:
    """Draw steps as runs do: timesteps, prompts, branches and sizes change. The largest error of all, and notices."""
    torch.manual_seed(0)
    model, untouched = (transformer(scheme, dtype=dtype, **config) for _ in range(2))
    notices: list[str] = []
    of_texts = (((1, 5), 3), ((1, 30), 3), ((4, 9), 3), ((1, 5), 5))  # lengths of two texts, height
    given = [inputs(untouched, lengths, h=h) for lengths, h in of_texts[:prompts]]
    model.cuda()
    model.engine = Engine(model, notice=notices.append)
    worst = 0.0
    guidance = 0.45 if "guidance_embeds" in config else None
    for latents, contexts in given:
        texts = on_device(contexts)
        for step, timestep in enumerate((999.0, 700.0, 300.0, 10.0)):
            branches = slice(1, None) if step == 3 else slice(None)  # guidance within an interval
            needed = latents[branches] * (1 + step)
            expected = untouched.velocity(needed, timestep, contexts[branches], guidance)
            out = model.velocity(needed.cuda(), timestep, texts[branches], guidance)
            worst = max(worst, relative_error(out.cpu(), expected))
    return worst, notices


_QUICK = {
    ("plain", "none"),
    ("plain", "w8a8"),
    ("plain", "f8a8"),
    ("sprint", "w8a8"),
    ("positions", "none"),
}


@pytest.mark.parametrize(
    ("variant", "scheme"),
    [
        pytest.param(variant, scheme, marks=() if (variant, scheme) in _QUICK else pytest.mark.slow)
        for variant in VARIANTS
        for scheme in ("none", "w8a8", "f8a8", "w4a16-g64")
    ],
)
def test_every_variant_and_scheme(gpu: Device, variant: str, scheme: str) -> None:
    error, notices = rehearse(scheme, **VARIANTS[variant])
    assert error < (0.02 if scheme == "f8a8" else LIMIT)  # products of 8-bit floats write bf16
    assert notices == []
    assert gpu.streams.races == []
    assert (
        gpu.counts["captures"] == 5
    )  # 2 kinds of branches at 2 sizes, and one with a negative prompt
    assert gpu.counts["replays"] == 16 + 5  # each graph is tried once


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bits(gpu: Device, dtype: torch.dtype) -> None:
    error, notices = rehearse(dtype=dtype)
    assert error < 0.05
    assert notices == []


def test_a_step_costs_a_replay_and_a_few_copies(gpu: Device) -> None:
    model = transformer().cuda()
    latents, contexts = inputs(transformer())
    model.engine = Engine(model, notice=pytest.fail)
    latents, texts = latents.cuda(), on_device(contexts)
    for timestep in (700.0, 300.0, 700.0):
        gpu.counts.clear()
        model.velocity(latents, timestep, texts)
    assert gpu.counts == {
        "operations": 4,
        "replays": 1,
    }  # latents, the condition's two, the velocity


@pytest.mark.parametrize("scheme", ["none", "w8a8"])
def test_texts_of_many_lengths_share_a_graph(gpu: Device, scheme: str) -> None:
    """A file of prompts has as many lengths, and a capture takes longer than a picture."""
    model, untouched = transformer(scheme).cuda(), transformer(scheme)
    model.engine = Engine(model, notice=pytest.fail)
    for lengths in ((1, 5), (1, 40), (1, 64), (1, 7), (3, 5), (50, 9), (1, 65), (1, 128), (1, 300)):
        latents, contexts = inputs(untouched, lengths)
        out = model.velocity(latents.cuda(), 700.0, on_device(contexts))
        expected = untouched.velocity(latents, 700.0, contexts)
        assert relative_error(out.cpu(), expected) < LIMIT
    # Up to 64 tokens, the same with a negative prompt, up to 128, up to 320.
    assert gpu.counts["captures"] == 4


def test_a_graph_for_both_branches_and_one_for_one_of_them(gpu: Device) -> None:
    """Guidance in some steps only goes from one to the other; neither is captured again, nor reads old texts."""
    model, untouched = transformer().cuda(), transformer()
    model.engine = Engine(model, notice=pytest.fail)
    latents, contexts = inputs(untouched)
    _, others = inputs(untouched, (1, 5), h=4)
    others = [others[0], replace(others[1], values=[-v for v in others[1].values])]
    for texts in (contexts, others):
        there = on_device(texts)
        for branches in (slice(None), slice(1, None)) * 2:
            needed = latents[: len(texts[branches])]
            out = model.velocity(needed.cuda(), 700.0, there[branches])
            expected = untouched.velocity(needed, 700.0, texts[branches])
            assert relative_error(out.cpu(), expected) < LIMIT
    assert gpu.counts["captures"] == 2
    larger, _ = inputs(untouched, h=4)
    for batch in (larger, latents):
        model.velocity(batch.cuda(), 700.0, on_device(contexts))
    assert gpu.counts["captures"] == 4, "a graph of another size replaces those that were there"


def test_a_capture_that_fails_costs_the_graph_alone(gpu: Device) -> None:
    before = torch.cuda.current_stream()

    def synchronises(name: str) -> None:
        if gpu.capturing is not None and name == "depthwise3x3_glu":
            torch.cuda.synchronize()

    gpu.fails = synchronises
    error, notices = rehearse()
    assert error < LIMIT
    assert len(notices) == 1
    assert "no CUDA graph (CUDA error: operation" in notices[0]
    assert torch.cuda.current_stream() is before
    assert gpu.capturing is None
    assert gpu.counts["captures"] == 1


@pytest.mark.parametrize("while_capturing", [False, True], ids=["a trial", "a capture"])
def test_out_of_memory(gpu: Device, while_capturing: bool) -> None:
    """Of a trial it is the planner's; of a capture it costs the graph."""

    def full(name: str) -> None:
        if (gpu.capturing is not None) == while_capturing and name == "relu_linear_attention":
            raise torch.OutOfMemoryError("CUDA out of memory.")

    gpu.fails = full
    if while_capturing:
        error, notices = rehearse()
        assert error < LIMIT
        assert [n.split(";")[0] for n in notices] == ["no CUDA graph (CUDA out of memory.)"]
    else:
        with pytest.raises(torch.OutOfMemoryError):
            rehearse()


# -- planted faults -----------------------------------------------------------------------------------


def _patched(
    place: Any, name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Any:
    return lambda patch: patch.setattr(place, name, change(getattr(place, name)))


def _sync_in_capture(block: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, x: Tensor, *rest: Any) -> Any:
        float(x.sum())
        return block(self, x, *rest)

    return call


def _upload_in_capture(block: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, x: Tensor, *rest: Any) -> Any:
        x.add_(torch.zeros(x.shape[-1]).to(x.device))
        return block(self, x, *rest)

    return call


def _random_in_capture(block: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, x: Tensor, *rest: Any) -> Any:
        x.add_(torch.rand_like(x), alpha=0.0)
        return block(self, x, *rest)

    return call


def _a_constant_of_the_host(block: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, x: Tensor, *rest: Any) -> Any:
        x.add_(torch.zeros(x.shape[-1]))
        return block(self, x, *rest)

    return call


def _nothing(method: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: None


def _twice(forward: Callable[..., Any]) -> Callable[..., Any]:
    """State of one step that the next one finds: magnitudes that nobody zeroes."""
    kept: list[Tensor] = []

    def call(self: Any, latents: Tensor, *rest: Any) -> Tensor:
        out = forward(self, latents, *rest)
        if not kept or kept[0].shape != out.shape:
            kept[:] = [torch.zeros_like(out)]
        kept[0].add_(out)
        return kept[0] + 0 * out

    return call


def _own_latents(call: Callable[..., Any]) -> Callable[..., Any]:
    """The graph reads the latents of its capture for ever."""

    def replay(self: Any, latents: Tensor, condition: Condition) -> Tensor:
        return call(self, self._latents.clone(), condition)

    return replay


def _own_condition(call: Callable[..., Any]) -> Callable[..., Any]:
    def replay(self: Any, latents: Tensor, condition: Condition) -> Tensor:
        return call(self, latents, self._condition.copy())

    return replay


def _no_copy(call: Callable[..., Any]) -> Callable[..., Any]:
    """The caller is given the graph's memory, which the next replay overwrites."""

    def replay(self: Any, latents: Tensor, condition: Condition) -> Tensor:
        call(self, latents, condition)
        return self._velocity

    return replay


def _unpadded(text: Callable[..., Any]) -> Callable[..., Any]:
    """Texts without a mask: tokens that do not exist are attended to."""

    def unmasked(self: Any, contexts: Sequence[TextContext]) -> Text:
        found = text(self, contexts)
        return Text([replace(c, mask=None) for c in found.contexts], found.addends)

    return unmasked


def _other_layer(add_to: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, x, text, layer, largest: add_to(self, x, text, 0, largest)


def _another_stream(call: Callable[..., Any]) -> Callable[..., Any]:
    """Replays on a stream of its own, for which no one waits."""

    def replay(self: Any, latents: Tensor, condition: Condition) -> Tensor:
        with torch.cuda.stream(torch.cuda.Stream()):
            return call(self, latents, condition)

    return replay


def _forgotten_positions(positions: Callable[..., Any]) -> Callable[..., Any]:
    """Positions of the first size for every size, as far as they reach."""
    return lambda self, h, w: None


FAULTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "a host sync while capturing": (_patched(EngineBlock, "__call__", _sync_in_capture), {}),
    "an upload while capturing": (_patched(EngineBlock, "__call__", _upload_in_capture), {}),
    "random numbers while capturing": (_patched(EngineBlock, "__call__", _random_in_capture), {}),
    "a tensor of the host": (_patched(EngineBlock, "__call__", _a_constant_of_the_host), {}),
    "a missing wait": (_patched(Stream, "wait_stream", _nothing), {}),
    "a wrong stream": (_patched(CapturedForward, "__call__", _another_stream), {}),
    "stale latents": (_patched(CapturedForward, "__call__", _own_latents), {}),
    "a stale timestep": (_patched(CapturedForward, "__call__", _own_condition), {}),
    "a stale prompt": (_patched(CapturedForward, "use_text", _nothing), {}),
    "state from step to step": (_patched(EngineTransformer, "forward", _twice), {}),
    "padding that is attended to": (_patched(EngineTransformer, "text", _unpadded), {}),
    "the text of another layer": (_patched(TextAttention, "add_to", _other_layer), {}),
    "no positions": (
        _patched(EngineTransformer, "positions", _forgotten_positions),
        {"interpolation_scale": 2.0},
    ),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_planted_fault_is_caught(
    gpu: Device, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    plant, config = FAULTS[fault]
    plant(monkeypatch)
    found = attempt(lambda: rehearse(prompts=2, **config), fatal=(AssertionError,))
    if isinstance(found, Failure):
        assert "device" in found.reason or "capturing" in found.reason
        return
    error, notices = found
    assert not error <= 10 * LIMIT or notices or gpu.streams.races


def test_a_velocity_in_the_graphs_memory_is_caught(
    gpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next replay overwrites it: samplers keep the velocities of earlier steps."""
    for fault in (None, _no_copy):
        if fault is not None:
            _patched(CapturedForward, "__call__", fault)(monkeypatch)
        model = transformer().cuda()
        latents, contexts = inputs(transformer())
        model.engine = Engine(model, notice=pytest.fail)
        first = model.velocity(latents.cuda(), 700.0, on_device(contexts))
        kept = first.clone()
        model.velocity(latents.cuda() * 2, 300.0, on_device(contexts))
        assert torch.equal(first, kept) == (fault is None)


def test_the_host_waits_for_no_step(gpu: Device) -> None:
    """Checked values are read a step later; the last ones before the loop ends."""
    from sana_cli.pipeline.denoise import denoise
    from sana_cli.schedulers import FlowEuler

    noise = torch.randn(1, 2, 3, 3).cuda()
    gpu.counts.clear()
    denoise(lambda latents, timestep: latents * 0.5, noise, FlowEuler([1.0, 0.7, 0.3, 0.0]))
    assert gpu.counts["syncs"] == 0


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_broken_step_is_found(gpu: Device, broken: int) -> None:
    from sana_cli.pipeline.denoise import denoise
    from sana_cli.pipeline.values import BrokenValues
    from sana_cli.schedulers import FlowEuler

    seen: list[int] = []

    def velocity(latents: Tensor, timestep: float) -> Tensor:
        return latents * (torch.nan if len(seen) == broken else 1.0)

    with pytest.raises(BrokenValues, match=f"after denoising step {broken + 1}"):
        denoise(
            velocity,
            torch.randn(1, 2, 3, 3).cuda(),
            FlowEuler([1.0, 0.7, 0.3, 0.0]),
            after_step=lambda i, latents: seen.append(i),
        )
