"""Which kernels a CUDA device is given; their products, as far as a CPU has the same."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from quant.backends import cuda
from quant.backends.dispatch import usable_kernels
from quant.backends.kernel import Kernel
from quant.config import QuantConfig
from quant.kernels.conv3x3_w8a8 import conv3x3_w8a8
from quant.layers import QuantConv2d, QuantLinear
from sana_cli.accelerate.cuda.trial import relative_error
from tests.rehearsal.device import CUDA, Device

W8A8 = QuantConfig(act_bits=8)


def layer(K: int = 64, N: int = 32, *, bias: bool = True) -> QuantLinear:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(N, K, generator=generator)
    return QuantLinear.from_weight(weight, torch.randn(N, generator=generator) * bias, W8A8)


@pytest.fixture
def int_mm() -> Kernel:
    [kernel] = [kernel for kernel in cuda.KERNELS if kernel.name == "int_mm"]
    return kernel


@pytest.mark.parametrize("rows", [1, 17, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_int_mm(
    int_mm: Kernel, monkeypatch: pytest.MonkeyPatch, rows: int, dtype: torch.dtype
) -> None:
    """cuBLAS refuses fewer than 17 rows, and sums 32-bit integers."""
    given: list[int] = []

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        given.append(len(a))
        return (a.double() @ b.double()).to(torch.int32)

    monkeypatch.setattr(torch, "_int_mm", product)
    x = torch.randn(2, rows, 64).to(dtype)
    out = int_mm.run(x, int_mm.pack(layer()), layer())
    assert given[0] >= 17
    assert out.dtype == dtype
    near = 1e-5 if dtype == torch.float32 else 2**-7  # bf16 rounds to 8 bits, at either of two ends
    torch.testing.assert_close(out, layer().reference(x), rtol=near, atol=1e-5)


def test_int_mm_refuses_other_widths(int_mm: Kernel) -> None:
    with pytest.raises(NotImplementedError, match="multiples of 8"):
        int_mm.pack(layer(N=36))


@pytest.mark.parametrize(
    ("installed", "gpu", "names"),
    [
        (True, {"capability": (8, 0)}, {"triton", "int_mm"}),  # measuring decides
        (True, {"capability": (7, 5)}, {"int_mm"}),  # Triton compiles no int8 product there
        (False, {"capability": (8, 9)}, {"int_mm"}),  # Windows
    ],
    indirect=["gpu"],
)
def test_who_multiplies(
    gpu: Device, monkeypatch: pytest.MonkeyPatch, installed: bool, names: set[str]
) -> None:
    found = (
        SimpleNamespace(__spec__="found") if installed else None
    )  # None: as if it were not there
    monkeypatch.setitem(sys.modules, "triton", found)
    usable = usable_kernels(layer(), CUDA, "native")
    assert {kernel.name for kernel in usable} == names


class Copies(TorchDispatchMode):
    """Counts floats that are moved into another order."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in ("clone", "contiguous")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scaled", [False, True], ids=["a scale a picture", "a stored scale"])
def test_a_map_is_quantized_as_it_lies(gpu: Device, scaled: bool) -> None:
    """A map of 1024 x 1024 x 128 was transposed twice, which took longer than its convolution."""
    conv = nn.Conv2d(16, 16, 3, padding=1)
    layer = QuantConv2d.from_conv(conv, W8A8)
    if scaled:
        layer.act_scale = torch.tensor(0.02)
    layer.to(CUDA)
    packed = cuda._conv_pack(layer)
    x = torch.randn(2, 16, 6, 5).to(memory_format=torch.channels_last).to(CUDA)
    with Copies() as copies, torch.no_grad():
        out = cuda._conv_run(x, packed, layer)
    before = copies.count
    assert relative_error(out, layer.reference(x)) < 1e-5
    q = torch.zeros(2, 6, 5, 16, dtype=torch.int8, device=CUDA)
    scale = torch.ones(2, device=CUDA)
    with Copies() as copies, torch.no_grad():
        conv3x3_w8a8(q, scale, packed, layer.scale, bias=layer.bias, out_dtype=x.dtype)
    assert before <= copies.count
