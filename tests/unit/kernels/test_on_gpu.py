"""Every kernel and every tile on a CUDA device, against the reference, over awkward and real sizes."""

import pytest
import torch
from torch import Tensor

from quant import primitives
from quant.config import QuantConfig
from quant.kernels import reference
from quant.kernels.autotune import rank
from quant.kernels.conv3x3_w8a8 import conv3x3_w8a8
from quant.kernels.conv3x3_w8a8 import repack as repack_conv
from quant.kernels.linear_w4a16 import linear_w4a16, repack
from quant.kernels.linear_w8a8 import linear_w8a8
from quant.kernels.quantize_per_token import quantize_per_token
from quant.kernels.tiles import CONV3X3_W8A8, INT8_CANDIDATES, LINEAR_W4A16, Tile, tiles_of
from quant.layers import QuantLinear

pytestmark = pytest.mark.gpu

AWKWARD = [(1, 1152, 1152), (33, 65, 100), (300, 1152, 2240), (514, 200, 131)]
SANA = [(512, 1152, 1152), (2048, 3456, 1152), (2048, 1152, 2880), (512, 2240, 5600)]


def tile_id(tile: Tile | None) -> str:
    return "table" if tile is None else f"{tile.m}x{tile.n}x{tile.k}"


@pytest.fixture(autouse=True)
def _exact_reference() -> None:
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def integers(*shape: int) -> Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int8, device="cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("M", "K"), [(1, 1), (3, 131), (2048, 1152), (512, 5760), (7, 32768)])
def test_quantize_per_token(M: int, K: int, dtype: torch.dtype) -> None:
    x = (torch.randn(M, K) * 3).to(dtype)
    x[0] = 0
    smooth = torch.rand(K) + 0.1
    for factor in (None, smooth):
        q, scale = quantize_per_token(x.cuda(), smooth=None if factor is None else factor.cuda())
        wide = x.float() if factor is None else x.float() * factor
        # On the CPU: a CUDA division by a number is a product with its rounded inverse.
        expected_q, expected_scale = primitives.quantize_per_token(wide)
        assert torch.equal(q.cpu(), expected_q)
        assert torch.equal(scale.cpu(), expected_scale)


@pytest.mark.parametrize("tile", [None, *INT8_CANDIDATES], ids=tile_id)
@pytest.mark.parametrize(("M", "N", "K"), AWKWARD + SANA)
def test_linear_w8a8(M: int, N: int, K: int, tile: Tile | None) -> None:
    q, weight = integers(M, K), integers(N, K)
    ones = torch.ones(M, device="cuda"), torch.ones(N, device="cuda")
    out = linear_w8a8(q, ones[0], weight, ones[1], out_dtype=torch.float32, tile=tile)
    assert torch.equal(out, primitives.int8_matmul(q, weight).float())

    args = q, torch.rand(M, device="cuda") / 500, weight, torch.rand(N, device="cuda") / 500
    bias, residual = torch.randn(N, device="cuda"), torch.randn(M, N, device="cuda").bfloat16()
    gate = torch.randn(2 if M % 2 == 0 else 1, N, device="cuda")
    out = linear_w8a8(
        *args, bias=bias, activation="silu", gate=gate, residual=residual, tile=tile,
        out_dtype=torch.float32,
    )  # fmt: skip
    expected = reference.linear_w8a8(
        *args, bias=bias, activation="silu", gate_BN=gate, residual_MN=residual,
        out_dtype=torch.float32,
    )  # fmt: skip
    # The device's exponential is good to about 2^-22; sums of unlike sign lose a few bits more.
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tile", [None, *tiles_of(CONV3X3_W8A8)], ids=tile_id)
@pytest.mark.parametrize(
    ("B", "H", "W", "K", "N"), [(1, 1, 1, 1, 1), (3, 5, 9, 100, 40), (2, 64, 48, 128, 256)]
)
def test_conv3x3_w8a8(B: int, H: int, W: int, K: int, N: int, tile: Tile | None) -> None:
    q, weight = integers(B, H, W, K), integers(N, K, 3, 3)
    act_scale = torch.rand(B, device="cuda") / 100
    weight_scale, bias = torch.rand(N, device="cuda") / 100, torch.randn(N, device="cuda")
    residual = torch.randn(B, H, W, N, device="cuda")
    rest = {"bias": bias, "activation": "silu", "out_dtype": torch.float32}
    for scale in (act_scale, act_scale[0]):
        out = conv3x3_w8a8(
            q, scale, repack_conv(weight), weight_scale, residual=residual, tile=tile, **rest
        )
        expected = reference.conv3x3_w8a8(
            q, scale, weight, weight_scale, residual_BHWN=residual, **rest
        )
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tile", [None, *tiles_of(LINEAR_W4A16)], ids=tile_id)
@pytest.mark.parametrize("group_size", [64, 128])
@pytest.mark.parametrize(("M", "N", "K"), [(1, 2304, 2048), (17, 33, 131), (300, 200, 2304)])
def test_linear_w4a16(
    M: int, N: int, K: int, group_size: int, tile: Tile | None, dtype: torch.dtype
) -> None:
    config = QuantConfig(weight_bits=4, act_bits=16, group_size=group_size)
    layer = QuantLinear.from_weight(torch.randn(N, K), torch.randn(N), config).cuda()
    weight = repack(layer.qweight, layer.scale, in_features=K, group_size=group_size)
    x = torch.randn(M, K, device="cuda").to(dtype)
    out = linear_w4a16(x, weight, bias=layer.bias, out_dtype=torch.float32, tile=tile)
    assert layer.bias is not None
    expected = x.double() @ layer.dequantize(torch.float32).double().T + layer.bias.double()
    # fp32 sums of K products of size 1, in any order.
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-3)


def test_a_cuda_graph_replays_them() -> None:
    """What the engine does: capture once, replay with other numbers in the same memory."""
    x = torch.randn(64, 128, device="cuda").bfloat16()
    weight, weight_scale = primitives.quantize_per_channel(torch.randn(96, 128, device="cuda"))

    def step() -> Tensor:
        q, scale = quantize_per_token(x)
        return linear_w8a8(q, scale, weight, weight_scale)

    step()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(captured, step())


def test_measuring_ranks_tiles() -> None:
    q, weight = integers(512, 1152), integers(1152, 1152)
    scales = torch.ones(512, device="cuda"), torch.ones(1152, device="cuda")
    ranked = rank(
        lambda tile: linear_w8a8(q, scales[0], weight, scales[1], tile=tile), INT8_CANDIDATES
    )
    assert 0 < ranked[0][1] <= ranked[-1][1]
