"""Define a kernel: a way to multiply one kind of quantized layer on one kind of device.

A kernel packs a layer's integers once, in the order that its product wants, and then maps inputs to
outputs. The layer's own forward is the reference; `measurement.py` compares every kernel with it before
use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quant.layers import AcceleratedLayer, QuantConv2d

Packed = Any  # what `pack` returns: tensors or a library's own object


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A way to run layers of a scheme. `run` maps (x, packed, layer) to what the layer's forward returns."""

    name: str  # "onednn", "fbgemm", ...
    backend: str  # native | torchao | quanto
    schemes: tuple[str, ...]  # by name, group sizes aside: "w4a16"
    layer: type[AcceleratedLayer]
    devices: tuple[str, ...]  # torch device types
    run: Callable[[Tensor, Packed, Any], Tensor]
    # Nothing where the integers lie as `run` wants them.
    pack: Callable[[Any], Packed] = lambda layer: None
    is_available: Callable[[], bool] = lambda: True
    frees_weight: bool = False  # `packed` replaces the stored integers, which the layer may forget
    note: str = ""  # what its arithmetic changes, for the table

    def supports(self, layer: AcceleratedLayer, device: torch.device) -> bool:
        """Return whether this kernel can run such a layer on such a device."""
        if type(layer) is not self.layer or device.type not in self.devices:
            return False
        return layer.config.scheme.name in self.schemes and self.is_available()


def kind_of(layer: AcceleratedLayer) -> str:
    """Return what the choice of a kernel depends on: the type of layer, its geometry and its bits."""
    name = "linear"
    if isinstance(layer, QuantConv2d):
        height, width = layer.qweight.shape[2:]
        name = f"conv {height}x{width}" + (f"/{layer.stride[0]}" if layer.stride[0] > 1 else "")
    return f"{name} {layer.config.plain}"
