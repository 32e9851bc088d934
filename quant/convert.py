"""Walk a model and swap its layers for quantized ones, as a recipe says.

Two ways in: `quantize_` converts a model that holds float weights; `swap_empty_` swaps empty layers into
a model on the meta device, to be filled from a quantized checkpoint.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from quant.config import QuantConfig, Recipe
from quant.layers import QuantConv2d, QuantEmbedding, QuantLinear
from quant.schemes import examples_for

Candidate = nn.Linear | nn.Conv2d | nn.Embedding
Quantized = QuantLinear | QuantConv2d | QuantEmbedding


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """The decision about one layer that could have been quantized."""

    path: str
    kind: str  # "linear", "conv 1x1", "conv 3x3", ...
    config: QuantConfig | None
    reason: str = ""  # why it stays in floating point


class RecipeError(ValueError):
    """A rule that decides nothing, or a scheme that does not suit a layer."""


def candidates(model: nn.Module) -> Iterator[tuple[str, Candidate]]:
    """Yield every layer with a matrix, a kernel or a table, by path."""
    for path, module in model.named_modules():
        if isinstance(module, Candidate):
            yield path, module


def resolve(model: nn.Module, recipe: Recipe) -> list[LayerReport]:
    """List what the recipe does to each layer, changing nothing. Raises RecipeError for a rule
    without effect.
    """
    layers = dict(candidates(model))
    unused = recipe.unused(layers)
    if unused:
        raise RecipeError(f"pattern {unused[0].pattern!r} decides about no layer of this model")
    return [_report(path, module, recipe) for path, module in layers.items()]


def _report(path: str, module: Candidate, recipe: Recipe) -> LayerReport:
    rule = recipe.rule_for(path)
    config = rule.config if rule else None
    reason = rule.reason if rule else "no rule of the recipe names it"
    if isinstance(module, nn.Linear | nn.Embedding):
        kind = "linear" if isinstance(module, nn.Linear) else "embedding"
    else:
        kind = f"conv {module.kernel_size[0]}x{module.kernel_size[1]}"
        if module.groups != 1:
            config, reason = None, "grouped or depthwise: few weights, little work"
    return LayerReport(
        path=path,
        kind=kind,
        config=config,
        reason="" if config else reason,
    )


def quantize_(
    model: nn.Module, recipe: Recipe, *, token_convs: tuple[type[nn.Conv2d], ...] = ()
) -> list[LayerReport]:
    """Quantize a model's layers in place; returns what happened to each candidate.

    `token_convs` are 1x1 convolution classes that take channels-last tokens: they become
    `QuantLinear`. Each float weight is dropped as soon as its layer is done.
    """
    reports = resolve(model, recipe)
    layers = dict(candidates(model))
    for report in reports:
        module = layers.pop(report.path)
        if report.config is not None:
            _swap(model, report.path, quantized_layer(module, report.config, token_convs))
    return reports


def swap_empty_(
    model: nn.Module,
    configs: Mapping[str, QuantConfig | None],
    *,
    token_convs: tuple[type[nn.Conv2d], ...] = (),
) -> None:
    """Swap empty quantized layers into a model on the meta device. KeyError names a path it lacks."""
    layers = dict(candidates(model))
    for path, config in configs.items():
        if path not in layers:
            raise KeyError(path)
        if config is not None:
            _swap(model, path, empty_layer(layers[path], config, token_convs))


def quantized_layer(
    module: Candidate, config: QuantConfig, token_convs: tuple[type[nn.Conv2d], ...] = ()
) -> Quantized:
    """Quantize one layer. Raises RecipeError when the scheme is not for such a layer."""
    _require_suitable(module, config, token_convs)
    if isinstance(module, nn.Embedding):
        return QuantEmbedding.from_weight(module.weight, multiplier=_multiplier(module))
    if isinstance(module, (nn.Linear, *token_convs)):
        return QuantLinear.from_weight(module.weight, module.bias, config)
    assert isinstance(module, nn.Conv2d)
    return QuantConv2d.from_conv(module, config)


def empty_layer(
    module: Candidate, config: QuantConfig, token_convs: tuple[type[nn.Conv2d], ...] = ()
) -> Quantized:
    """Make the quantized layer that replaces `module`, its buffers not filled."""
    _require_suitable(module, config, token_convs)
    if isinstance(module, nn.Embedding):
        rows, channels = module.weight.shape
        return QuantEmbedding(rows, channels, multiplier=_multiplier(module))
    if isinstance(module, (nn.Linear, *token_convs)):
        N, K = module.weight.shape[:2]
        return QuantLinear(K, N, bias=module.bias is not None, config=config)
    assert isinstance(module, nn.Conv2d)
    return QuantConv2d.like(module, config)


def _require_suitable(
    module: Candidate, config: QuantConfig, token_convs: tuple[type[nn.Conv2d], ...]
) -> None:
    embedding = isinstance(module, nn.Embedding)
    if embedding and ("embedding" not in config.scheme.layers or config != config.plain):
        known = " or ".join(examples_for("embedding"))
        raise RecipeError(f"an embedding is stored in {known}, not {config}")
    kernel = isinstance(module, nn.Conv2d) and not isinstance(module, token_convs)
    if kernel and "conv" not in config.scheme.layers:
        known = " or ".join(examples_for("conv"))
        raise RecipeError(f"a {module.kernel_size} convolution is stored in {known}, not {config}")


def _multiplier(module: nn.Embedding) -> float:
    """Gemma's embedding class scales its rows; others do not."""
    return float(getattr(module, "multiplier", 1.0))


def _swap(model: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)
