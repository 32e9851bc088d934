"""Schemes are records: every one is complete, and nobody else knows what a scheme is by its bits."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

from quant.backends.dispatch import all_kernels
from quant.config import QuantConfig
from quant.convert import RecipeError, quantized_layer
from quant.schemes import SCHEMES, LayerKind, Scheme
from quant.storage import storage_of

ROOT = Path(__file__).parents[3]
LAYERS: dict[LayerKind, nn.Linear | nn.Conv2d | nn.Embedding] = {
    "linear": nn.Linear(7, 6),
    "conv": nn.Conv2d(5, 6, 3),
    "embedding": nn.Embedding(9, 4),
}


def config_of(scheme: Scheme) -> QuantConfig:
    config = QuantConfig.parse(scheme.example)
    assert config is not None
    return config


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_a_name_leads_to_the_record(scheme: Scheme) -> None:
    assert config_of(scheme).scheme is scheme
    assert (config_of(scheme).group_size > 0) == scheme.grouped


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_layers_hold_what_the_record_says(scheme: Scheme, kind: LayerKind) -> None:
    module, config = LAYERS[kind], config_of(scheme)
    if kind not in scheme.layers:
        with pytest.raises(RecipeError, match=scheme.name):
            quantized_layer(module, config)
        return
    layer = quantized_layer(module, config)
    stored = layer.qweight, layer.scale
    shapes = scheme.shapes(tuple(module.weight.shape), config.group_size)
    assert tuple(tuple(tensor.shape) for tensor in stored) == shapes
    types = tuple(str(tensor.dtype).removeprefix("torch.") for tensor in stored)
    assert types == (scheme.qweight_dtype, scheme.scale_dtype)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_stored_integers_reach_the_limits_of_the_record(scheme: Scheme) -> None:
    if scheme.integers is None:
        return
    weight = torch.cat([torch.linspace(-1, 1, 255), torch.tensor([-1.0])])[None]
    q, _ = storage_of(scheme).quantize(weight, config_of(scheme).group_size)
    assert scheme.integers[0] <= int(q.min()) < 0 < int(q.max()) <= scheme.integers[1]
    assert int(q.max()) == scheme.integers[1]


def test_kernels_list_schemes_that_are_known() -> None:
    known = {scheme.name for scheme in SCHEMES}
    assert {name for kernel in all_kernels() for name in kernel.schemes} <= known


def test_nobody_compares_bits() -> None:
    """They ask the scheme's record, so that another scheme is one more record."""
    homes = {ROOT / "quant/config.py", ROOT / "quant/schemes.py"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for top in ("sana_cli", "quant", "calibration", "benchmarks")
        for path in (ROOT / top).rglob("*.py")
        if path not in homes and "_bits" in (text := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Compare)
        and any(
            isinstance(part, ast.Attribute) and part.attr in ("weight_bits", "act_bits")
            for side in (node.left, *node.comparators)
            for part in ast.walk(side)
        )
        and not any(isinstance(operator, ast.In) for operator in node.ops)  # a list of widths
    ]
    assert found == []
