"""Quantize a network's matrix products by their real inputs: smoothing, then rounding.

The float network is at hand all the time. Folded factors change it in place and change nothing it
computes; stored ones and integers go into layers of their own, so that any choice of layers can be
swapped in afterwards.
"""

# M rows (tokens), K input channels, N output channels

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from calibration.gptq import gptq
from calibration.observe import Call, InputStats, observe, stats_bytes
from calibration.sites import Site, batches, by_block, find_sites, fold_
from calibration.smoothing import search_smoothing
from quant.config import QuantConfig
from quant.layers import QuantLinear
from quant.primitives import sqnr_db

# Bytes for what is observed at a time; or one block's worth where that is more.
MEMORY_LIMIT = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Methods:
    """The methods to use beyond rounding to nearest."""

    smooth: bool = True
    gptq_bits: tuple[int, ...] = (4, 8)  # weights of these widths are rounded by GPTQ


NEAREST = Methods(smooth=False, gptq_bits=())


@dataclass(slots=True)
class Found:
    """Finished layers, how well each does on real rows, and which float tensors folding changed."""

    layers: dict[str, QuantLinear] = field(default_factory=dict)
    spare: dict[str, QuantLinear] = field(default_factory=dict)  # the same layers in `spare_config`
    sqnr: dict[str, float] = field(default_factory=dict)
    spare_sqnr: dict[str, float] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)  # names of tensors


def calibrate_linears(
    model: nn.Module,
    configs: Mapping[str, QuantConfig],
    calls: Sequence[Call],
    *,
    methods: Methods,
    seed: int,
    spare_config: QuantConfig | None = None,
    advance: Callable[[], None] = lambda: None,
    memory_limit: int = MEMORY_LIMIT,
) -> Found:
    """Quantize every layer of `configs` that some call reaches; the others are left to the caller.

    All calls run once for each group of blocks that fits `memory_limit`; `groups` says how often.
    """
    found = Found()
    for sites in groups(model, configs, calls, methods=methods, memory_limit=memory_limit):
        observed = observe(
            model,
            [site.key for site in sites],
            calls,
            hessians=any(_wants_gptq(configs[site.key], methods) for site in sites),
            seed=seed,
            advance=advance,
        )
        for site in _consumers_first(sites):
            if site.key in observed:
                stats = observed.pop(site.key)
                _calibrate_site(model, site, stats, configs, methods, spare_config, found)
    return found


def groups(
    model: nn.Module,
    configs: Mapping[str, QuantConfig],
    calls: Sequence[Call],
    *,
    methods: Methods,
    memory_limit: int = MEMORY_LIMIT,
) -> list[list[Site]]:
    """Group the sites that are observed in one run of all calls."""
    blocks = by_block(find_sites(configs))
    buckets = 1 + max(call.bucket for call in calls)

    def cost(site: Site) -> int:
        width = _weight(model, site.key).shape[1]
        hessian = _wants_gptq(configs[site.key], methods)
        return stats_bytes(width, hessian=hessian, buckets=buckets)

    costs = [sum(cost(site) for site in block) for block in blocks]
    return list(batches(blocks, costs, memory_limit))


def _consumers_first(sites: Sequence[Site]) -> list[Site]:
    """A fold changes its producer's weight, so who asks for one comes before the producer is quantized."""
    return sorted(sites, key=lambda site: site.producer is None)


def _wants_gptq(config: QuantConfig, methods: Methods) -> bool:
    return config.weight_bits in methods.gptq_bits and config.scheme.integers is not None


def _layer(model: nn.Module, path: str) -> nn.Linear | nn.Conv2d:
    layer = model.get_submodule(path)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return layer


def _weight(model: nn.Module, path: str) -> Tensor:
    return _layer(model, path).weight.detach().flatten(1)


def _calibrate_site(
    model: nn.Module,
    site: Site,
    stats: InputStats,
    configs: Mapping[str, QuantConfig],
    methods: Methods,
    spare_config: QuantConfig | None,
    found: Found,
) -> None:
    config = configs[site.key]
    choose_MK, report_MK = stats.rows()
    hessian_KK = stats.hessian_KK
    weights = [_weight(model, path).float() for path in site.paths]
    factors = None
    if methods.smooth:
        factors = search_smoothing(
            choose_MK, stats.absmax_K, weights, config, powers_of_two=site.producer is not None
        )
    stored = None
    if factors is not None and site.producer is not None:
        # Free while running. As powers of two they change no bit of what the float network computes.
        producer = model.get_submodule(site.producer)
        changed = fold_(producer, factors)
        found.folded += [f"{site.producer}.{name}" for name in changed]
        for path in site.paths:
            fold_columns_(_layer(model, path), factors)
            found.folded.append(f"{path}.weight")
        report_MK = report_MK * factors
    elif factors is not None:
        # Inputs that AdaLN modulates could take the factors from it, but its table is added to t6, which all
        # blocks share: no factor on the table alone multiplies their sum. So the layer stores them, and an engine
        # may multiply the sum, one vector a step. The input of attn2.to_q is the residual stream itself.
        stored = factors
    if factors is not None and hessian_KK is not None:
        hessian_KK = hessian_KK * factors * factors[:, None]
    for path in site.paths:
        module = _layer(model, path)
        expected = report_MK @ _weight(model, path).float().T
        layer = _quantize(module, config, stored, hessian_KK, methods)
        found.layers[path] = layer
        found.sqnr[path] = sqnr_db(expected, _product(layer, report_MK))
        if spare_config is not None:
            spare = _quantize(module, spare_config, stored, hessian_KK, methods)
            found.spare[path] = spare
            found.spare_sqnr[path] = sqnr_db(expected, _product(spare, report_MK))


def fold_columns_(layer: nn.Linear | nn.Conv2d, factors_K: Tensor) -> None:
    """Divide a layer's weight by the factors that its producer was multiplied by."""
    weight = layer.weight
    shape = (1, -1) + (1,) * (weight.ndim - 2)
    divided = (weight.detach().float() / factors_K.view(shape)).to(weight.dtype)
    layer.weight = nn.Parameter(divided, requires_grad=False)


def _quantize(
    layer: nn.Linear | nn.Conv2d,
    config: QuantConfig,
    smooth_K: Tensor | None,
    hessian_KK: Tensor | None,
    methods: Methods,
) -> QuantLinear:
    weight, bias = layer.weight, layer.bias
    if smooth_K is not None:
        config = replace(config, smooth=True)
    if hessian_KK is None or not _wants_gptq(config, methods):
        return QuantLinear.from_weight(weight, bias, config, smooth_K=smooth_K)
    weight_NK = weight.detach().flatten(1).float()
    if smooth_K is not None:
        weight_NK = weight_NK / smooth_K
    q_NK, scale = gptq(weight_NK, hessian_KK, config)
    return QuantLinear.from_quantized(q_NK, scale, bias, config, smooth_K=smooth_K)


def _product(layer: QuantLinear, x_MK: Tensor) -> Tensor:
    """The layer's output without its bias, which is exact."""
    out = layer(x_MK)
    return out if layer.bias is None else out - layer.bias.float()
