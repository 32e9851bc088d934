"""Streaming statistics, sampled steps and stored activation scales."""

import random

import pytest
import torch
from torch import nn

from calibration.collect import BUCKETS, stratified_steps
from calibration.convolutions import best_scale, calibrate_convolutions
from calibration.observe import ROWS, Call, observe
from calibration.sites import Site, batches
from quant.config import QuantConfig
from quant.layers import QuantConv2d


def test_sums_are_those_of_all_rows_at_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4))
    parts = [torch.randn(2, 300, 8) for _ in range(6)]
    calls = [Call(lambda x=x: model(x), i % 3) for i, x in enumerate(parts)]  # type: ignore[misc]
    stats = observe(model, ["0"], calls, hessians=True, seed=0)["0"]
    everything = torch.cat(parts).flatten(0, 1)
    torch.testing.assert_close(stats.hessian_KK, everything.T @ everything)
    assert torch.equal(stats.absmax_K, everything.abs().amax(0))
    assert stats.absmax_TK.shape == (3, 8)
    assert torch.equal(stats.absmax_TK[1], torch.cat([parts[1], parts[4]]).abs().amax((0, 1)))
    choose, report = stats.rows()
    assert ROWS <= len(choose) + len(report) < ROWS + len(calls)


def test_hooks_are_gone_afterwards() -> None:
    model = nn.Sequential(nn.Linear(8, 4))

    def fail() -> None:
        model(torch.randn(1, 8))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observe(model, ["0"], [Call(fail)], hessians=False, seed=0)
    assert not model[0]._forward_pre_hooks


def test_a_layer_that_is_not_reached_is_missing() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    calls = [Call(lambda: model[0](torch.randn(3, 8)))]
    assert set(observe(model, ["0", "1"], calls, hessians=False, seed=0)) == {"0"}


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 20, 28])
def test_steps_come_from_every_part_of_a_picture(steps: int) -> None:
    rng = random.Random(0)
    seen: set[int] = set()
    for _ in range(300):
        chosen = stratified_steps(steps, rng)
        assert list(chosen.values()) == list(range(min(BUCKETS, steps)))
        assert sorted(chosen) == list(chosen)
        seen |= set(chosen)
    assert seen == set(range(steps))


def test_batches_keep_blocks_whole() -> None:
    blocks = [[Site((str(i),), None), Site((f"{i}b",), None)] for i in range(5)]
    sizes = [len(batch) for batch in batches(blocks, [4, 4, 4, 100, 1], 8)]
    assert sizes == [4, 2, 2, 2]


def test_a_stored_scale_clips_what_is_rare() -> None:
    torch.manual_seed(0)
    values = torch.randn(60_000)
    exact = float(best_scale(values, float(values.abs().max()))) * 127
    assert 0.6 * values.abs().max() < exact <= values.abs().max()
    values[7] = 10
    assert float(best_scale(values, 10.0)) * 127 < 10
    assert float(best_scale(torch.zeros(9), 0.0)) == 1


def test_stored_scales_of_convolutions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1))
    model.requires_grad_(False)
    pictures = [torch.randn(1, 8, 20, 20) for _ in range(4)]
    calls = [Call(lambda x=x: model(x)) for x in pictures]  # type: ignore[misc]
    config = QuantConfig(weight_bits=8, act_bits=8)
    layers, sqnr = calibrate_convolutions(model, ["0", "1"], config, calls, seed=0)
    assert {str(layer.config) for layer in layers.values()} == {"w8a8-static"}
    assert all(isinstance(layer, QuantConv2d) for layer in layers.values())
    assert min(sqnr.values()) > 30
