"""Linear layers whose fp32 weights oneDNN holds in the order that its product wants. For CPUs, for inference only.

Libraries differ widely: on CPUs of other makers, MKL, which torch uses for `F.linear`, leaves instructions unused. Which
is faster is measured once a machine (`sana_cli.loading.load`).
"""

# M rows, K input channels, N output channels

from collections.abc import Callable

import torch
from torch import Tensor, nn

from quant.backends.timing import best_seconds
from sana_cli.models.layers import PointwiseConv2d

_PROBE = (512, 1152, 1152)  # M, K, N
_READ = ("proj_out", "linear_1")  # others ask their weights for a dtype
_WORTH = 1.1  # times as fast, or a noisy machine would change its mind


class PackedLinear(nn.Module):
    """(..., K) -> (..., N), as the linear layer or 1x1 convolution on tokens that it was made from.

    The packed weight can be neither saved nor moved.
    """

    def __init__(self, layer: nn.Linear | PointwiseConv2d) -> None:
        super().__init__()
        weight_NK = layer.weight.detach().flatten(1)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_NK, None)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x, "none")

    def forward_silu(self, x: Tensor) -> Tensor:
        """SiLU of the layer's output, without a pass of its own."""
        return self._run(x, "swish")

    def _run(self, x: Tensor, activation: str) -> Tensor:
        x_fp32 = x.float()  # under autocast some inputs come in 16 bits, and the product takes none
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x_fp32, self._packed, self.bias, activation, [], ""
        )
        return out


def pack_linears_(model: nn.Module, after_packing: Callable[[], None] = lambda: None) -> int:
    """Swap a model's fp32 linear layers for packed ones, one by one; returns how many.

    `after_packing` is called whenever a layer is gone.
    """
    # Names instead of layers, which would stay for as long as a list of them does.
    found = [
        (parent, name)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if type(layer) in (nn.Linear, PointwiseConv2d) and name not in _READ
    ]
    swapped = 0
    for parent, name in found:
        layer = parent.get_submodule(name)
        assert isinstance(layer, nn.Linear | PointwiseConv2d)
        # A decoder is loaded without its encoder, which then has no memory.
        if layer.weight.dtype == torch.float32 and not layer.weight.is_meta:
            setattr(parent, name, PackedLinear(layer))
            swapped += 1
            del layer
            after_packing()
    return swapped


def is_worth_packing() -> bool:
    """Return whether packed products are right and faster here, by a short measurement."""
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return False
    M, K, N = _PROBE
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        layer = nn.Linear(K, N)
    x = torch.randn(M, K, generator=generator)
    with torch.inference_mode():
        # No `skip_init`: it moves a module off the meta device, for which torch imports sympy, half a second.
        layer.weight = nn.Parameter(torch.empty(N, K).normal_(std=K**-0.5, generator=generator))
        layer.bias = nn.Parameter(torch.empty(N).normal_(generator=generator))
        try:
            packed = PackedLinear(layer)
            right = torch.allclose(packed(x), layer(x), rtol=0, atol=1e-4)
        except RuntimeError:  # not in this build
            return False
        if not right:
            return False
        plain, in_order = best_seconds([lambda: layer(x), lambda: packed(x)], x.device)
        return plain > _WORTH * in_order
