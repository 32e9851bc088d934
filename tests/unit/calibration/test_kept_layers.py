"""Which layers keep more bits: by number, by share, or as many as a budget wants."""

from dataclasses import dataclass
from typing import Any

import pytest

from calibration.kept_layers import choose_kept, with_kept
from calibration.linears import Found
from quant.config import QuantConfig
from quant.convert import LayerReport
from sana_cli.config.recipes import KeepRule
from sana_cli.errors import ExitCode, SanaError
from sana_cli.quantize_checkpoint import ComponentPlan

NOISE = {"a": 0.01, "b": 0.04, "c": 0.02, "d": 0.001}
W4, W8 = QuantConfig(weight_bits=4, group_size=64), QuantConfig()


@dataclass
class Layer:
    config: QuantConfig


def found() -> Found:
    four: Any = {path: Layer(W4) for path in NOISE}
    eight: Any = {path: Layer(W8) for path in NOISE}
    return Found(
        layers=four,
        spare=eight,
        sqnr=dict.fromkeys(NOISE, 20.0),
        spare_sqnr=dict.fromkeys(NOISE, 40.0),
    )


def no_pictures() -> float:
    raise AssertionError("pictures are drawn for a budget only")


@pytest.mark.parametrize(
    ("rule", "paths"),
    [
        (KeepRule(config=W8, count=0), set()),
        (KeepRule(config=W8, count=1), {"b"}),
        (KeepRule(config=W8, share=0.5), {"b", "c"}),
    ],
    ids=["none", "one", "half"],
)
def test_the_most_sensitive_are_kept(rule: KeepRule, paths: set[str]) -> None:
    kept, predicted = choose_kept(rule, NOISE, found(), no_pictures)
    assert (set(kept), predicted) == (paths, None)


def test_a_budget_keeps_as_many_as_it_takes() -> None:
    kept, predicted = choose_kept(KeepRule(config=W8, budget_db=16.0), NOISE, found(), lambda: 0.0)
    assert kept[0] == "b"
    assert len(kept) < len(NOISE)
    assert predicted is not None
    assert predicted >= 16


def test_a_budget_out_of_reach() -> None:
    with pytest.raises(SanaError, match=r"--budget-db 90 is out of reach: about .* dB") as caught:
        choose_kept(KeepRule(config=W8, budget_db=90.0), NOISE, found(), lambda: 0.0)
    assert caught.value.code == ExitCode.USAGE


@pytest.mark.parametrize("has_spare", [True, False], ids=["8 bits", "floating point"])
def test_kept_layers_in_the_plan(has_spare: bool) -> None:
    layers = [LayerReport(path=path, kind="linear", config=W4) for path in NOISE]
    some = found()
    if not has_spare:
        some.spare = {}
    plan: Any = ComponentPlan(layers=layers, finished=some.layers, replaced={}, sqnr=some.sqnr)
    rule = KeepRule(config=W8 if has_spare else None, count=1)
    made = with_kept(plan, some, ["b"], rule)
    kept = next(layer for layer in made.layers if layer.path == "b")
    assert kept.config == (W8 if has_spare else None)
    assert made.sqnr.get("b") == (40.0 if has_spare else None)
    assert ("b" in made.finished) == has_spare
    assert len(plan.finished) == len(NOISE), "the plan itself stays"
