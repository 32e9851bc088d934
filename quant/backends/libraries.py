"""Kernels of torchao and optimum-quanto, for comparison and for devices where they are the best."""

# M rows (tokens), K input channels, N output channels

from functools import partial

import torch
from torch import Tensor

from quant.backends.cpu import int_mm_is_exact, quantized_tokens
from quant.backends.kernel import Kernel
from quant.installed import LIBRARIES, is_installed
from quant.layers import QuantLinear

# Libraries are imported when a layer is packed: their seconds are not those of a product.


def _torchao_pack(layer: QuantLinear) -> Tensor:
    if layer.qweight.device.type == "cpu" and not int_mm_is_exact():
        raise RuntimeError("its integer product saturates on this CPU")
    import torchao.kernel.intmm  # noqa: F401

    return layer.qweight.T  # the layout that torchao's own int8 tensors use


def _torchao_run(x: Tensor, packed: Tensor, layer: QuantLinear) -> Tensor:
    from torchao.kernel.intmm import int_scaled_matmul

    q_MK, scale_M = quantized_tokens(x, layer)
    product = int_scaled_matmul(q_MK, packed, scale_M[:, None]) * layer.scale
    if layer.bias is not None:
        product = product + layer.bias.float()
    return product.to(x.dtype).unflatten(0, x.shape[:-1])


def _quanto_pack(layer: QuantLinear) -> None:
    from optimum.quanto import library  # noqa: F401  registers the operator


def _quanto_run(x: Tensor, packed: None, layer: QuantLinear) -> Tensor:
    if layer.smooth is not None:
        x = x * layer.smooth.to(x.dtype)
    scale = layer.scale.to(x.dtype)[:, None]
    out = torch.ops.quanto.qbytes_mm(x.flatten(0, -2), layer.qweight, scale)
    if layer.bias is not None:
        out = out + layer.bias.to(out.dtype)
    return out.unflatten(0, x.shape[:-1])


KERNELS = (
    Kernel(
        name="int_scaled_matmul", backend="torchao", schemes=("w8a8",), layer=QuantLinear,
        devices=("cpu", "cuda"), pack=_torchao_pack, run=_torchao_run,
        is_available=partial(is_installed, LIBRARIES["torchao"]),
    ),
    Kernel(
        name="qbytes_mm", backend="quanto", schemes=("w8a16",), layer=QuantLinear,
        devices=("cpu", "cuda", "mps"), pack=_quanto_pack, run=_quanto_run,
        is_available=partial(is_installed, LIBRARIES["quanto"]),
    ),
)  # fmt: skip
