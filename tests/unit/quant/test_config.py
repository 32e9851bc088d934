"""Schemes and recipes are data with rules of their own."""

import pytest

from quant.config import QuantConfig, Recipe, Rule, config_from_json, config_to_json
from quant.schemes import EXAMPLES

W8A8 = QuantConfig(weight_bits=8, act_bits=8)


@pytest.mark.parametrize("scheme", [*EXAMPLES, "w4a16-g128"])
def test_schemes_are_written_as_they_are_read(scheme: str) -> None:
    config = QuantConfig.parse(scheme)
    assert str(config) == scheme
    assert config_from_json(config_to_json(config)) == config


def test_none() -> None:
    assert QuantConfig.parse("none") is None
    assert config_from_json(config_to_json(None)) is None


@pytest.mark.parametrize(
    "scheme", ["w4a4", "w4a16", "w8a8-g64", "w4a8-g64", "int8", "w4a16-g63", ""]
)
def test_unknown_schemes(scheme: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        QuantConfig.parse(scheme)


def test_first_rule_wins() -> None:
    keep = Rule(pattern="*.to_k", config=None, reason="sensitive")
    recipe = Recipe((keep, Rule(pattern="blocks.*", config=W8A8)))
    assert recipe.rule_for("blocks.0.to_k") is keep
    assert recipe.rule_for("blocks.0.to_q").config == W8A8
    assert recipe.rule_for("final") is None


def test_a_rule_that_decides_nothing_shows() -> None:
    hidden = Rule(pattern="blocks.0", config=W8A8)
    recipe = Recipe((Rule(pattern="blocks.*", config=W8A8), hidden))
    assert recipe.unused(["blocks.0", "blocks.1"]) == [hidden]


def test_a_rule_that_keeps_must_say_why() -> None:
    with pytest.raises(ValueError, match="must say why"):
        Rule(pattern="*", config=None)
