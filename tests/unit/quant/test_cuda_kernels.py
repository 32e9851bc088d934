"""Which kernels a CUDA device is given; their products, as far as a CPU has the same."""

import pytest
import torch

from quant.backends import cuda
from quant.backends.dispatch import usable_kernels
from quant.backends.kernel import Kernel
from quant.config import QuantConfig
from quant.layers import QuantLinear

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
