"""Queries, keys and values by one product: one pass over the tokens, and one quantization of them, for three.

Every output channel keeps its own sum, so quantized layers give the same values as before. For models that only run from
here on: the joined layers are no longer there under their published names.
"""

# K input channels, N output channels

from collections.abc import Callable, Sequence

import torch
from torch import nn

from quant.layers import QuantLinear
from sana_cli.models.dc_ae import MultiscaleLinearAttention
from sana_cli.models.sana_transformer import LinearAttention


def fuse_projections_(model: nn.Module, after_joining: Callable[[], None] = lambda: None) -> int:
    """Join the projections of every linear attention whose layers are alike; returns how many.

    `after_joining` is called whenever three layers are gone.
    """
    joined = 0
    for module in model.modules():
        if isinstance(module, LinearAttention | MultiscaleLinearAttention):
            layer = join([module.to_q, module.to_k, module.to_v])
            if layer is not None:
                module.to_qkv = layer
                del module.to_q, module.to_k, module.to_v
                joined += 1
                after_joining()
    return joined


def join(layers: Sequence[nn.Module]) -> nn.Module | None:
    """Join layers into one with all their outputs in order; None if they are of different kinds."""
    first = layers[0]
    if any(type(layer) is not type(first) for layer in layers):
        return None
    if type(first) is nn.Linear:
        with torch.device("meta"):
            joined: nn.Module = nn.Linear(
                first.in_features, len(layers) * first.out_features, bias=first.bias is not None
            )
    elif isinstance(first, QuantLinear) and _are_alike(layers):
        with torch.device("meta"):
            joined = QuantLinear(
                first.in_features, len(layers) * first.out_features,
                bias=first.bias is not None, config=first.config,
            )  # fmt: skip
    else:
        return None
    states = [layer.state_dict() for layer in layers]
    if any(_shapes(state) != _shapes(states[0]) for state in states):
        return None
    # A decoder's encoder may have no weights; joining those would make torch import its compiler, 145 MiB of it.
    if any(tensor.is_meta for tensor in states[0].values()):
        return None
    state = {
        name: tensor if name == "smooth" else torch.cat([state[name] for state in states])
        for name, tensor in states[0].items()
    }
    joined.load_state_dict(state, assign=True)
    return joined.requires_grad_(False).eval()


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _are_alike(layers: Sequence[nn.Module]) -> bool:
    """Return whether the layers quantize their input in the same way: bits, groups and factors."""
    first = layers[0]
    assert isinstance(first, QuantLinear)
    for layer in layers[1:]:
        assert isinstance(layer, QuantLinear)
        if layer.config != first.config:
            return False
        if first.smooth is not None and not torch.equal(first.smooth, layer.smooth):  # type: ignore[arg-type]
            return False
    return True
