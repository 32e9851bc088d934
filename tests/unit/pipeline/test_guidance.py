"""Fewer passes through the transformer: what is computed, what is used again, and what is left out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sana_cli.config.choices import Pag
from sana_cli.models.block_cache import FirstBlockCache
from sana_cli.models.sana_transformer import SanaTransformer2D
from sana_cli.pipeline.guidance import Passes, guided_velocity, is_guided, without_effect
from sana_cli.request.params import GenerationParams
from tests.unit.accelerate.cuda.models import inputs, transformer

SETTINGS = GenerationParams(
    prompt="x", negative_prompt="", seed=0, width=96, height=96, drawn_width=96, drawn_height=96, steps=4,
    guidance_scale=3.0, guidance_interval=(0.0, 1.0), cache=0.0, scheduler="flow-dpm",
    flow_shift=3.0, enhance=False,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@contextmanager
def rows_of_blocks(model: SanaTransformer2D) -> Iterator[list[tuple[int, int]]]:
    """(block, rows that it was given) of every call."""
    seen: list[tuple[int, int]] = []
    handles = [
        block.register_forward_pre_hook(lambda module, given, i=i: seen.append((i, len(given[0]))))
        for i, block in enumerate(model.transformer_blocks)
    ]
    yield seen
    for handle in handles:
        handle.remove()


def steps(x: Tensor) -> list[tuple[Tensor, float]]:
    """Latents and timesteps that come ever closer to each other."""
    return [(x[:1] * (1 + 0.1 / 4**i), 900.0 - 10 / 4**i) for i in range(4)]


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
def test_a_threshold_of_nothing_changes_no_bit(apart: bool) -> None:
    model = transformer(layers=3)
    x, contexts = inputs(model)
    run = partial(guided_velocity, model, contexts, guidance_scale=3.0, branches_apart=apart)
    caches = [FirstBlockCache(0.0), FirstBlockCache(0.0)]
    for latents, timestep in [*steps(x), *steps(x)[-1:]]:
        assert torch.equal(run(latents, timestep, caches=caches), run(latents, timestep))


def test_an_interval_that_covers_everything_changes_no_bit() -> None:
    model = transformer()
    x, contexts = inputs(model)
    passes = Passes(replace(SETTINGS, guidance_interval=(0.1, 0.95)))
    for latents, timestep in steps(x):
        plain = guided_velocity(model, contexts, latents, timestep, guidance_scale=3.0)
        assert torch.equal(passes.velocity(model, contexts, latents, timestep), plain)
    assert passes.count.saved == 0


def test_a_change_below_the_threshold_runs_the_first_block_alone() -> None:
    model = transformer(layers=3)
    passes, (x, contexts) = Passes(replace(SETTINGS, cache=0.01)), inputs(model)
    with rows_of_blocks(model) as rows:
        first = passes.velocity(model, contexts, x[:1], 900.0)
        assert rows == [(0, 2), (1, 2), (2, 2)]
        rows.clear()
        again = passes.velocity(model, contexts, x[:1], 900.0)
        assert rows == [(0, 2)]
        torch.testing.assert_close(again, first)
        rows.clear()
        passes.velocity(model, contexts, -x[:1], 100.0)
        assert rows == [(0, 2), (1, 2), (2, 2)]
    assert str(passes.count) == "4 of 8 passes computed, 2 ended after the first block, 2 left out"


def test_the_change_is_measured_from_the_last_computed_step() -> None:
    """Not from the last one: small changes would add up unseen."""
    cache, one = FirstBlockCache(0.25), torch.ones(1, 4, 8)
    cache.keep(one, 5 * one)
    assert cache.rest_for(1.2 * one) is not None
    assert cache.rest_for(1.4 * one) is None
    assert cache.reused == 1


def test_each_branch_decides_for_itself() -> None:
    """Rows of the branch that changed go on alone, with their own text."""
    model = transformer(layers=3)
    x, contexts = inputs(model)
    caches = [FirstBlockCache(0.5), FirstBlockCache(0.0)]
    model.velocity(x, 900.0, contexts, None, caches)
    with rows_of_blocks(model) as rows:
        out = model.velocity(1.01 * x, 890.0, contexts, None, caches)
    assert rows == [(0, 2), (1, 1), (2, 1)]
    assert [cache.reused for cache in caches] == [1, 0]
    expected = model.velocity(1.01 * x, 890.0, contexts)
    torch.testing.assert_close(out[1], expected[1], rtol=1e-4, atol=1e-5)
    assert (out[0] - expected[0]).abs().max() > 1e-4
    assert (out[0] - expected[0]).norm() < 0.1 * expected[0].norm()


def test_outside_of_the_interval_one_branch_is_computed() -> None:
    model = transformer()
    x, contexts = inputs(model)
    passes = Passes(replace(SETTINGS, guidance_interval=(0.2, 0.8)))
    with rows_of_blocks(model) as rows:
        outside = passes.velocity(model, contexts, x[:1], 801.0)
        assert rows == [(0, 1), (1, 1)]
        inside = passes.velocity(model, contexts, x[:1], 800.0)
        assert rows[2:] == [(0, 2), (1, 2)]
    assert torch.equal(outside, model.velocity(x[:1], 801.0, contexts[1:]).float())
    assert not torch.equal(inside, outside)
    assert passes.count.computed == 3


def test_ends_of_the_interval_belong_to_it() -> None:
    settings = replace(SETTINGS, guidance_interval=(0.2, 0.8))
    found = [is_guided(settings, t) for t in (199.0, 200.0, 800.0, 801.0)]
    assert found == [False, True, True, False]


@pytest.mark.parametrize(
    ("changes", "blocks", "told"),
    [
        ({}, 2, ""),
        ({"guidance_interval": (0.2, 0.8), "cache": 0.1}, 2, ""),
        ({"guidance_interval": (0.2, 0.8), "guidance_scale": 1.0}, 2, "guidance is 1 or less"),
        ({"guidance_interval": (0.2, 0.8), "scheduler": "scm"}, 2, "built in (Sprint)"),
        ({"guidance_interval": (0.01, 1.0)}, 2, "every step lies in it"),
        ({"guidance_interval": (0.0, 0.01)}, 2, "drawn without guidance"),
        ({"cache": 0.1, "steps": 1}, 2, "one step"),
        ({"cache": 0.1}, 1, "one block"),
    ],
    ids=str,
)
def test_what_has_no_effect_is_told(changes: dict[str, object], blocks: int, told: str) -> None:
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    found = list(without_effect(settings, blocks=blocks))
    assert len(found) == bool(told)
    assert told in "".join(found)


# -- perturbed-attention guidance -----------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_blocks_before_the_perturbed_one_run_once_for_both_branches(
    layer: int, apart: bool
) -> None:
    model = transformer(layers=3)
    x, contexts = inputs(model)
    with rows_of_blocks(model) as seen:
        guided_velocity(
            model,
            contexts,
            x[:1],
            900.0,
            guidance_scale=3.0,
            branches_apart=apart,
            pag=Pag(2.0, layer),
        )
    rows = {block: sum(n for i, n in seen if i == block) for block in range(3)}
    assert rows == {block: 2 if block <= layer else 3 for block in range(3)}


@pytest.mark.parametrize("guidance", [3.0, 1.0])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_pag_as_three_whole_branches(qk_norm: bool, guidance: float) -> None:
    """The same as a branch of its own whose attention of one block gives each token its own values."""
    model = transformer(layers=3, qk_norm="rms_norm_across_heads" if qk_norm else None)
    x, contexts = inputs(model)
    used = contexts if guidance > 1 else contexts[-1:]
    ours = guided_velocity(model, used, x[:1], 900.0, guidance_scale=guidance, pag=Pag(2.0, 1))
    without = guided_velocity(model, used, x[:1], 900.0, guidance_scale=guidance)
    conditional = guided_velocity(model, contexts[-1:], x[:1], 900.0, guidance_scale=1.0)
    attention = model.transformer_blocks[1].attn1
    handle = attention.register_forward_hook(
        lambda module, given, out: module.to_out[0](module.to_v(given[0]))
    )
    perturbed = guided_velocity(model, contexts[-1:], x[:1], 900.0, guidance_scale=1.0)
    handle.remove()
    expected = without + 2.0 * (conditional - perturbed)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, without, atol=1e-2)


@pytest.mark.parametrize(("layers", "layer", "branches"), [(28, 14, 2.5), (20, 8, 2.6)])
def test_operations_of_the_published_sizes(layers: int, layer: int, branches: float) -> None:
    """By the blocks of a 0.6B and a 1.6B model at NVIDIA's layers: 2.5 and 2.6 branches instead of 3."""
    model = transformer(layers=layers)
    x, contexts = inputs(model)
    counts = []
    alone = contexts[-1:]  # the other text is one token, whose branch costs less
    for used, pag in ((alone, None), (contexts, None), (contexts, Pag(2.0, layer))):
        with FlopCounterMode(display=False) as counter:
            guided_velocity(model, used, x[:1], 900.0, guidance_scale=3.0, pag=pag)
        counts.append(counter.get_total_flops())
    one, two, with_pag = counts
    found = 2 + (with_pag - two) / one
    assert branches - 0.05 < found <= branches, "the perturbed block shares its projections, too"
