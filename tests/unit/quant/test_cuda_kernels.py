"""Which kernels a CUDA device is given; their products, as far as a CPU has the same."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from quant.backends import cuda
from quant.backends.dispatch import usable_kernels
from quant.backends.kernel import Kernel
from quant.config import QuantConfig
from quant.kernels import reference
from quant.layers import QuantConv2d, QuantLinear
from sana_cli.accelerate.cuda.trial import relative_error

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
    torch.testing.assert_close(out, layer().reference(x), rtol=1e-5, atol=1e-5)


def test_int_mm_refuses_other_widths(int_mm: Kernel) -> None:
    with pytest.raises(NotImplementedError, match="multiples of 8"):
        int_mm.pack(layer(N=36))


@pytest.mark.parametrize(
    ("installed", "capability", "names"),
    [
        (True, (8, 0), {"triton"}),
        (True, (7, 5), {"int_mm"}),  # Triton compiles no int8 product there
        (False, (8, 9), {"int_mm"}),  # Windows
    ],
)
def test_who_multiplies(
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
    capability: tuple[int, int],
    names: set[str],
) -> None:
    monkeypatch.setattr(cuda, "is_installed", lambda module: installed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    usable = usable_kernels(layer(), torch.device("cuda"), "native")
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
def test_a_map_is_quantized_as_it_lies(monkeypatch: pytest.MonkeyPatch, scaled: bool) -> None:
    """A map of 1024 x 1024 x 128 was transposed twice, which took longer than its convolution."""
    conv = nn.Conv2d(16, 16, 3, padding=1)
    layer = QuantConv2d.from_conv(conv, W8A8)
    if scaled:
        layer.act_scale = torch.tensor(0.02)

    def product(q: torch.Tensor, scale: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        return reference.conv3x3_w8a8(q, scale, layer.qweight, layer.scale, **options)

    monkeypatch.setattr(cuda.conv3x3_w8a8, "conv3x3_w8a8", product)
    x = torch.randn(2, 16, 6, 5).to(memory_format=torch.channels_last)
    with Copies() as copies, torch.no_grad():
        out = cuda._conv_run(x, torch.empty(0), layer)
    before = copies.count
    assert relative_error(out, layer.reference(x)) < 1e-5
    with Copies() as copies, torch.no_grad():
        product(
            torch.zeros(2, 6, 5, 16, dtype=torch.int8),
            torch.ones(2),
            bias=layer.bias,
            out_dtype=x.dtype,
        )
    assert before <= copies.count
