"""Keep-k keeps the right layers, and predictions add up."""

import math

import pytest
import torch
from torch import nn

from calibration.observe import Call
from calibration.sensitivity import (
    enough_for,
    noise_of_layers,
    noise_share,
    probe_calls,
    swapped,
    to_db,
    worst,
)


def model_with_damage(damage: dict[str, float]) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Layers that add up, and copies of them that are wrong by a given share."""
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(32, 32) for name in damage})
    copies: dict[str, nn.Module] = {}
    for name, share in damage.items():
        copy = nn.Linear(32, 32)
        weight = model[name].weight.detach()
        copy.weight.data = weight * (1 + share * torch.randn(weight.shape))
        copy.bias.data = model[name].bias.detach()
        copies[name] = copy.requires_grad_(False)
    return model.requires_grad_(False), copies


def run(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return sum(layer(x) for layer in model.values())  # type: ignore[operator,return-value]


def test_the_most_damaged_layer_comes_first() -> None:
    model, copies = model_with_damage({"a": 0.01, "b": 0.3, "c": 0.1, "d": 0.03})
    x = torch.randn(64, 32)
    noise = noise_of_layers(model, copies, [Call(lambda: run(model, x))])
    assert worst(noise, 2) == ["b", "c"]
    assert worst(noise, 0) == []
    assert model["b"] is not copies["b"], "the float layers are back"  # type: ignore[index]


def test_effects_add_up() -> None:
    model, copies = model_with_damage(dict.fromkeys("abcdefgh", 0.1))
    x = torch.randn(256, 32)
    noise = noise_of_layers(model, copies, [Call(lambda: run(model, x))])
    expected = run(model, x)
    with swapped(model, copies):
        measured = noise_share([expected], [run(model, x)])
    assert to_db(sum(noise.values())) == pytest.approx(to_db(measured), abs=1)


def test_as_many_as_a_budget_takes() -> None:
    noise = {"a": 1e-2, "b": 1e-3, "c": 1e-4}  # 20, 30, 40 dB alone
    rest = {"a": 1e-5, "b": 1e-5, "c": 1e-5}
    budget = {15: [], 25: ["a"], 35: ["a", "b"], 45: ["a", "b", "c"]}
    for db, kept in budget.items():
        found = enough_for(noise, rest, budget_db=db, offset_db=0)
        assert found is not None
        assert found[0] == kept, db
        assert found[1] >= db
    assert enough_for(noise, rest, budget_db=46, offset_db=0) is None
    shifted = enough_for(noise, rest, budget_db=25, offset_db=10)
    assert shifted is not None
    assert shifted[0] == []
    assert shifted[1] == pytest.approx(10 - 10 * math.log10(sum(noise.values())))


def test_probes_meet_every_bucket() -> None:
    calls = [Call(lambda: None, i % 4) for i in range(128)]
    assert {call.bucket for call in probe_calls(calls)} == {0, 1, 2, 3}
    assert len(probe_calls(calls[:3])) == 3


def test_no_noise() -> None:
    assert to_db(0) == math.inf
