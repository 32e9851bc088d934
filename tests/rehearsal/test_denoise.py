"""The engine with its graph on the simulated device: every variant, scheme and change between steps."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sana_cli.accelerate.cuda.engine import Engine
from sana_cli.accelerate.cuda.trial import relative_error
from sana_cli.config.choices import ControlOrder
from sana_cli.models.block_cache import FirstBlockCache
from tests.rehearsal.device import Device
from tests.rehearsal.scenarios import LIMIT, VARIANTS, costs, on_device, rehearse, rehearse_further
from tests.unit.accelerate.cuda.models import inputs, transformer

_QUICK = {("plain", "none"), ("plain", "f8a8"), ("sprint", "w8a8")}


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


@pytest.mark.parametrize(
    ("scheme", "order", "perturbed_layer", "captures"),
    [
        pytest.param("none", None, 0, 2, id="perturbed from the first block on"),
        pytest.param("w8a8", None, 2, 2, id="perturbed, w8a8"),
        pytest.param("none", ControlOrder.TRAINED, None, 1, id="control as trained"),
        pytest.param("none", ControlOrder.DIFFUSERS, None, 1, id="control as diffusers runs it"),
        pytest.param("w8a8", ControlOrder.TRAINED, 1, 2, id="both, w8a8"),
        pytest.param("none", ControlOrder.DIFFUSERS, 2, 2, id="both, as diffusers runs it"),
    ],
)
def test_further_branches_are_in_the_graph(
    gpu: Device, scheme: str, order: ControlOrder | None, perturbed_layer: int | None, captures: int
) -> None:
    """One graph for all prompts, drawings and scales; one more for the steps without a perturbed branch."""
    error, notices = rehearse_further(scheme, order=order, perturbed_layer=perturbed_layer)
    assert error < LIMIT
    assert notices == []
    assert gpu.streams.races == []
    assert gpu.counts["captures"] == captures
    assert gpu.counts["replays"] == 3 * 3 + captures  # each graph is tried once


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bits(gpu: Device, dtype: torch.dtype) -> None:
    error, notices = rehearse(dtype=dtype)
    assert error < 0.05
    assert notices == []


def test_a_step_costs_a_replay_and_a_few_copies(gpu: Device) -> None:
    """Latents, the condition's two, the velocity."""
    assert costs(gpu)[-1] == {"operations": 4, "replays": 1}


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


@pytest.mark.parametrize("scheme", ["none", pytest.param("w8a8", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("limits", "captures", "replays"),
    [
        pytest.param((0.0, 0.0), 2, 8, id="nothing is reused: both graphs in each of 4 steps"),
        pytest.param((0.5, 0.5), 2, 5, id="all is: the second graph runs once"),
        pytest.param((0.5, 0.0), 3, 8, id="one branch is: the other one's blocks are a graph"),
    ],
)
def test_caches_have_two_graphs(
    gpu: Device, scheme: str, limits: tuple[float, float], captures: int, replays: int
) -> None:
    """The same velocities as without graphs, to the last bit; within rounding of the model's on the CPU."""
    untouched = transformer(scheme)
    models = [transformer(scheme).cuda() for _ in range(2)]
    for model, graphs in zip(models, (True, False), strict=True):
        model.engine = Engine(model, notice=pytest.fail, graphs=graphs)
    latents, contexts = inputs(untouched)
    texts = on_device(contexts)
    caches = [[FirstBlockCache(limit) for limit in limits] for _ in range(3)]
    for step, timestep in enumerate((700.0, 690.0, 680.0, 670.0)):
        now = latents * (1 + 0.001 * step)
        with_graphs, without = (
            model.velocity(now.cuda(), timestep, texts, caches=own)
            for model, own in zip(models, caches[:2], strict=True)
        )
        expected = untouched.velocity(now, timestep, contexts, caches=caches[2])
        assert torch.equal(with_graphs.cpu(), without.cpu())
        assert relative_error(with_graphs.cpu(), expected) < LIMIT
    assert len({tuple(cache.reused for cache in own) for own in caches}) == 1
    assert gpu.streams.races == []
    assert gpu.counts["captures"] == captures
    assert gpu.counts["replays"] == replays + captures  # each graph is tried once


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
