"""Apply LoRAs to a model: merged into float weights as they are read, in parallel to quantized layers."""

# N output channels, K input channels, R rank

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant.layers import QuantLinear
from sana_cli.checkpoints.component_weights import ComponentWeights
from sana_cli.checkpoints.lora_file import Lora, LoraLayer, in_model
from sana_cli.checkpoints.model_files import reading
from sana_cli.errors import SanaError, checkpoint_error
from sana_cli.loading.assign import require_finite

_LARGEST_CHANGE = 1e6  # of a weight; those of models are below 100

_Layer = nn.Linear | nn.Conv2d | QuantLinear


class LoraLinear(nn.Module):
    """A quantized layer and what its LoRAs add, in floats: (..., K) -> (..., N)."""

    def __init__(self, layer: QuantLinear, down_RK: Tensor, up_NR: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("down", down_RK)
        self.register_buffer("up", up_NR)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + F.linear(F.linear(x, self.get_buffer("down")), self.get_buffer("up"))


class Adapters:
    """The LoRAs of one transformer."""

    def __init__(self, loras: Sequence[Lora], model: nn.Module) -> None:
        """`model` may be empty (on the meta device). SanaError where a LoRA does not fit it."""
        paths = [path for path, module in model.named_modules() if isinstance(module, _Layer)]
        self.loras = loras = tuple(in_model(lora, paths) for lora in loras)
        self._as_stored = set[str]()  # paths
        for lora in loras:
            wrong = [
                what
                for path, layer in lora.file.layers.items()
                if (what := _misfit(model, path, layer))
            ]
            if wrong:
                raise _no_fit(lora, wrong)
            for path in lora.file.layers:
                module = model.get_submodule(path)
                if getattr(module, "stays_as_stored", False):
                    self._as_stored.add(path)
        self._factors = [_factors(lora) for lora in loras]

    def merge(self, weights: ComponentWeights) -> ComponentWeights:
        """Return weights that are read with the LoRAs' changes: in fp32, or in the stored type for
        layers that keep it.
        """
        paths = {path for lora in self.loras for path in lora.file.layers}
        changed = {weights.names[n]: p for p in paths if (n := f"{p}.weight") in weights.names}

        def read(name: str) -> Tensor:
            stored = weights.read(name)
            if name not in changed:
                return stored
            path = changed[name]
            merged = stored.float()
            for down, up, factor in self._parts(path):
                merged = merged + factor * (up @ down).view(merged.shape)
            return merged.to(stored.dtype) if path in self._as_stored else merged

        fingerprints = [weights.fingerprint, *(f"{x.file.digest}:{x.scale}" for x in self.loras)]
        return replace(weights, read=read, fingerprint=";".join(fingerprints))

    def attach_(
        self, module: nn.Module, prefix: str, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Add LoRAs in parallel to the quantized layers of a filled module, found at `prefix` of the model."""
        for path, layer in list(module.named_modules()):
            parts = self._parts(prefix + path) if isinstance(layer, QuantLinear) else []
            if parts:
                down = torch.cat([down for down, _, _ in parts])
                up = torch.cat([factor * up for _, up, factor in parts], dim=1)
                beside = LoraLinear(layer, down.to(device, dtype), up.to(device, dtype))
                module.set_submodule(path, beside.eval())

    def _parts(self, path: str) -> list[tuple[Tensor, Tensor, float]]:
        """List each LoRA's change to a layer: down (R, K), up (N, R), fp32, and their factor."""
        parts = []
        for lora, factors in zip(self.loras, self._factors, strict=True):
            if path in factors:
                down, up = _halves(lora, path)
                _require_sane(lora, path, down, up, factors[path])
                parts.append((down, up, factors[path]))
        return parts


def _factors(lora: Lora) -> dict[str, float]:
    """Return the factor of each layer's product, by path; raise SanaError for an alpha that is no number."""
    from safetensors import safe_open

    factors = {}
    with reading(lora.file.path), safe_open(lora.file.path, framework="pt") as handle:
        for path, layer in lora.file.layers.items():
            alpha = layer.alpha if layer.alpha is not None else float(layer.rank)
            if layer.alpha_name is not None:
                alpha = float(handle.get_tensor(layer.alpha_name))
            if not isfinite(alpha):
                raise checkpoint_error(f"{lora.file.path}: {layer.alpha_name} is NaN or infinite")
            divisor = sqrt(layer.rank) if lora.file.by_root_of_rank else layer.rank
            factors[path] = lora.scale * alpha / divisor
    return factors


def _halves(lora: Lora, path: str) -> tuple[Tensor, Tensor]:
    """Return a layer's halves as fp32 matrices: down (R, K), up (N, R)."""
    from safetensors import safe_open

    layer = lora.file.layers[path]
    with reading(lora.file.path), safe_open(lora.file.path, framework="pt") as handle:
        down, up = handle.get_tensor(layer.down), handle.get_tensor(layer.up)
    for name, tensor in ((layer.down, down), (layer.up, up)):
        require_finite(tensor, name, str(lora.file.path))
    up = up[layer.first_row : layer.first_row + layer.up_shape[0]]
    return down.float().flatten(1), up.float().flatten(1)


def _require_sane(lora: Lora, path: str, down: Tensor, up: Tensor, factor: float) -> None:
    """SanaError for a change so large that it overflows, or drowns the model: later, the weights would be blamed."""
    rank = len(down)
    bound = rank * float(down.abs().max()) * float(up.abs().max()) * abs(factor)
    if not bound <= _LARGEST_CHANGE:
        raise checkpoint_error(
            f"{lora.file.path} changes {path} by up to {bound:.0e}, which no training does",
            hint="it is damaged, or its alpha is wrong: get it again, or give a small scale: --lora FILE:0.01",
        )


def _misfit(model: nn.Module, path: str, layer: LoraLayer) -> str:
    """Say why a LoRA's layer cannot be added to a model's, or return "" if it can."""
    try:
        module = model.get_submodule(path)
    except AttributeError:
        module = None
    if not isinstance(module, _Layer):
        return f"this model has no layer {path}"
    if isinstance(module, QuantLinear):
        weight: tuple[int, ...] = (module.out_features, module.in_features)
    else:
        weight = tuple(module.weight.shape)
    inputs = weight[1:]
    down, up = tuple(layer.down_shape[1:]), layer.up_shape[0]
    same = up == weight[0] and _without_ones(down) == _without_ones(inputs)
    if same and not set(layer.up_shape[2:]) - {1}:
        return ""
    return f"it changes {path} as a layer of {list(down)} -> {up}, which is one of {list(inputs)} -> {weight[0]}"


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A 1x1 convolution is a linear layer."""
    return tuple(n for n in shape if n != 1)


def _no_fit(lora: Lora, wrong: Sequence[str]) -> SanaError:
    layers = len(lora.file.layers)
    if len(wrong) == layers:
        return checkpoint_error(
            f"{lora.file.path} does not fit: {wrong[0]}",
            hint="it was trained for another model; name that one: --model",
        )
    return checkpoint_error(
        f"{lora.file.path} fits this model but for {len(wrong)} of {layers} layers: {wrong[0]}",
        hint="it was trained for a longer or changed model of this width, or names layers as no program known to sana does",
    )
