"""Every kernel and every tile on a CUDA device, against the reference, over awkward and real sizes."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from quant import primitives
from quant.config import QuantConfig
from quant.kernels import reference
from quant.kernels.autotune import rank
from quant.kernels.conv3x3_w8a8 import conv3x3_w8a8
from quant.kernels.conv3x3_w8a8 import repack as repack_conv
from quant.kernels.cross_attention import cross_attention, cross_attention_w8a8
from quant.kernels.dependent import dependent_launches
from quant.kernels.depthwise3x3_glu import depthwise3x3_glu
from quant.kernels.depthwise3x3_glu import repack as repack_depthwise
from quant.kernels.layer_norm_modulate import layer_norm_modulate, layer_norm_modulate_quantize
from quant.kernels.linear_w4a16 import linear_w4a16, repack
from quant.kernels.linear_w8a8 import linear_w8a8, linear_w8a8_on_load
from quant.kernels.quantize_per_token import quantize_per_token
from quant.kernels.relu_linear_attention import relu_linear_attention
from quant.kernels.rms_norm import rms_norm
from quant.kernels.softcap_attention import softcap_attention
from quant.kernels.tiles import (
    CONV3X3_W8A8,
    LINEAR_CANDIDATES,
    LINEAR_W4A16,
    LINEAR_W8A8_ON_LOAD,
    Tile,
    tiles_of,
)
from quant.layers import QuantLinear

pytestmark = pytest.mark.gpu

AWKWARD = [(1, 1152, 1152), (33, 65, 100), (300, 1152, 2240), (514, 200, 131)]
SANA = [(512, 1152, 1152), (2048, 3456, 1152), (2048, 1152, 2880), (512, 2240, 5600)]


def tile_id(tile: Tile | None) -> str:
    return "table" if tile is None else f"{tile.m}x{tile.width}x{tile.k}"


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


@pytest.mark.parametrize("tile", [None, *LINEAR_CANDIDATES], ids=tile_id)
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
        *args, bias=bias, activation="silu", gate=gate, residual=residual,
        out_dtype=torch.float32,
    )  # fmt: skip
    # The device's exponential is good to about 2^-22; sums of unlike sign lose a few bits more.
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tile", [None, *tiles_of(LINEAR_W8A8_ON_LOAD)], ids=tile_id)
@pytest.mark.parametrize(("M", "N", "K"), AWKWARD + SANA)
def test_linear_w8a8_on_load(M: int, N: int, K: int, tile: Tile | None, dtype: torch.dtype) -> None:
    """The integers of whole rows, so the same sums."""
    x = (torch.randn(M, K, device="cuda") * 3).to(dtype)
    x[0] = 0
    x[-1] *= 1e-30  # fp32 and bf16: a scale whose inverse is far from one
    largest, weight = x.float().abs().amax(dim=1), integers(N, K)
    scale = torch.rand(N, device="cuda")
    rest = {"out_dtype": torch.float32}
    out = linear_w8a8_on_load(x, largest, weight, scale, tile=tile, **rest)
    q, token_scale = quantize_per_token(x)
    assert torch.equal(out, linear_w8a8(q, token_scale, weight, scale, **rest))


@pytest.mark.parametrize("smoothed", [False, True], ids=["", "smoothed"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("M", "N", "K"), AWKWARD + SANA)
def test_the_largest_of_each_row(
    M: int, N: int, K: int, dtype: torch.dtype, smoothed: bool
) -> None:
    q, weight = integers(M, K), integers(N, K)
    scales = torch.rand(M, device="cuda") / 500, torch.rand(N, device="cuda") / 500
    largest = torch.zeros(M, device="cuda")
    smooth = torch.rand(N, device="cuda") if smoothed else None
    out = linear_w8a8(
        q, scales[0], weight, scales[1], out_dtype=dtype, out_largest=largest, out_smooth=smooth
    )
    wide = out.float() if smooth is None else out.float() * smooth
    assert torch.equal(largest, wide.abs().amax(dim=1))


@pytest.mark.parametrize("smoothed", [False, True], ids=["", "smoothed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("B", "N", "K", "L", "H", "E"),
    [(1, 1, 32, 1, 1, 16), (2, 100, 131, 33, 2, 20), (1, 1024, 1152, 40, 16, 72), (2, 256, 2240, 300, 20, 112)],
)  # fmt: skip
def test_cross_attention(
    B: int, N: int, K: int, L: int, H: int, E: int, dtype: torch.dtype, smoothed: bool
) -> None:
    x = torch.randn(B * N, K, device="cuda").to(dtype)
    smooth = torch.rand(K, device="cuda") + 0.1 if smoothed else None
    weight, weight_scale = primitives.quantize_per_channel(
        torch.randn(H * E, K, device="cuda") / K**0.5
    )
    text = [
        torch.randn(B, L, H * E, device="cuda").to(dtype).unflatten(-1, (H, E)).transpose(1, 2)
        for _ in range(2)
    ]
    mask = torch.rand(B, L, device="cuda") < 0.8
    mask[:, -1] = True
    largest = torch.zeros(B * N, device="cuda")
    wide = x.float() if smooth is None else x.float() * smooth
    q, scale = quantize_per_token(x, smooth=smooth)
    queries = linear_w8a8(q, scale, weight, weight_scale, out_dtype=dtype)
    expected = reference.cross_attention(queries, *text, mask=mask)
    close = {"rtol": 2 * NEIGHBOURS[dtype], "atol": 2 * NEIGHBOURS[dtype]}
    out = cross_attention_w8a8(
        x, wide.abs().amax(dim=1), weight, weight_scale, *text, smooth=smooth, mask=mask,
        out_largest=largest,
    )  # fmt: skip
    torch.testing.assert_close(out, expected, **close)
    assert torch.equal(largest, out.float().abs().amax(dim=1))
    torch.testing.assert_close(cross_attention(queries, *text, mask=mask), expected, **close)


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
            q, scale, repack_conv(weight), weight_scale, residual=residual, **rest
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


# Two values that agree in fp32 may round to neighbours: one step of bf16 and fp16 apart.
NEIGHBOURS = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@pytest.mark.parametrize("dtype", list(NEIGHBOURS), ids=str)
@pytest.mark.parametrize(("M", "D", "B"), [(1, 1, 1), (6, 33, 3), (2048, 1152, 1), (512, 2240, 2)])
def test_layer_norm_modulate(M: int, D: int, B: int, dtype: torch.dtype) -> None:
    x = (torch.randn(M, D, device="cuda") * 3 + 1).to(dtype)
    branch = torch.randn(M, D, device="cuda").to(dtype)
    gate, addend, shift, scale = (torch.randn(B, D, device="cuda") for _ in range(4))
    rest = {"shift": shift, "scale": scale, "eps": 1e-6, "addend": addend}
    ours, theirs = x.clone(), x.clone()
    out = layer_norm_modulate(ours, branch=branch, gate=gate, **rest)
    expected = reference.layer_norm_modulate(theirs, branch=branch, gate=gate, **rest)
    torch.testing.assert_close(ours, theirs, rtol=NEIGHBOURS[dtype], atol=1e-6)
    torch.testing.assert_close(out, expected, rtol=NEIGHBOURS[dtype], atol=4 * NEIGHBOURS[dtype])

    normed = layer_norm_modulate(x.clone(), **rest)
    q, token_scale = layer_norm_modulate_quantize(x, **rest)
    expected_q, expected_scale = primitives.quantize_per_token(normed.cpu())
    # Compiled apart, both may round the norm's last bit differently, which moves a value across .5 at times.
    differs = (q.cpu().int() - expected_q.int()).abs()
    assert differs.max() <= 1
    assert differs.float().mean() < 1e-3
    torch.testing.assert_close(token_scale.cpu(), expected_scale, rtol=NEIGHBOURS[dtype], atol=0)


@pytest.mark.parametrize("dtype", list(NEIGHBOURS), ids=str)
@pytest.mark.parametrize(
    ("B", "N", "H", "E"), [(1, 1, 1, 32), (2, 1024, 36, 32), (1, 16384, 3, 32), (3, 77, 2, 8)]
)
def test_relu_linear_attention(B: int, N: int, H: int, E: int, dtype: torch.dtype) -> None:
    qkv = torch.randn(B, N, 3 * H * E, device="cuda").to(dtype)
    q, k, v = qkv.unflatten(-1, (3 * H, E)).chunk(3, dim=2)
    out = relu_linear_attention(q, k, v)
    expected = reference.relu_linear_attention(q.double(), k.double(), v.double())
    # Sums of both signs: their error is that of the largest of them, not of the result.
    close = {"rtol": NEIGHBOURS[dtype], "atol": NEIGHBOURS[dtype] / 4}
    torch.testing.assert_close(out, expected.to(dtype), **close)


@pytest.mark.parametrize("dtype", list(NEIGHBOURS), ids=str)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 17, 33), (2, 32, 32, 2880)], ids=str)
def test_depthwise3x3_glu(
    shape: tuple[int, int, int, int], activation: str | None, dtype: torch.dtype
) -> None:
    *BHW, C = shape
    x = torch.randn(*BHW, 2 * C, device="cuda").to(dtype)
    weight = repack_depthwise(torch.randn(2 * C, 1, 3, 3, device="cuda").to(dtype))
    bias = torch.randn(2 * C, device="cuda").to(dtype)
    expected = reference.depthwise3x3_glu(x, weight, bias, activation=activation)
    for strip in (None, 1, 5):
        out = depthwise3x3_glu(x, weight, bias, activation=activation, strip=strip)
        close = {"rtol": NEIGHBOURS[dtype], "atol": NEIGHBOURS[dtype]}
        torch.testing.assert_close(out, expected, **close)


@pytest.mark.parametrize("dtype", list(NEIGHBOURS), ids=str)
@pytest.mark.parametrize(("M", "P", "D"), [(1, 1, 1), (2048, 2, 1152), (70000, 1, 128)])
def test_rms_norm(M: int, P: int, D: int, dtype: torch.dtype) -> None:
    x, residual = (torch.randn(M, P + 1, D, device="cuda").to(dtype)[:, :P] for _ in range(2))
    weight, bias = (torch.randn(P, D, device="cuda").to(dtype) for _ in range(2))
    rest = {"eps": 1e-5, "bias": bias, "activation": "relu", "residual": residual}
    expected = reference.rms_norm(x, weight, **rest)
    out = rms_norm(x, weight, out=x, **rest)
    torch.testing.assert_close(out, expected, rtol=NEIGHBOURS[dtype], atol=NEIGHBOURS[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("M", "K"), [(3, 131), (2048, 1152)])
def test_what_is_added_before_quantizing(M: int, K: int, dtype: torch.dtype) -> None:
    x, branch = (torch.randn(M, K, device="cuda").to(dtype) for _ in range(2))
    rest = {"branch": branch, "gate": torch.randn(1, K, device="cuda")}
    ours, theirs = x.clone(), x.clone()
    q, scale = quantize_per_token(ours, **rest)
    expected_q, expected_scale = reference.quantize_per_token(theirs, **rest)
    torch.testing.assert_close(ours, theirs, rtol=NEIGHBOURS[dtype], atol=1e-6)
    assert (q.int() - expected_q.int()).abs().max() <= 2  # of a sum that rounded to a neighbour
    torch.testing.assert_close(scale, expected_scale, rtol=NEIGHBOURS[dtype], atol=0)


@pytest.mark.parametrize("dtype", list(NEIGHBOURS), ids=str)
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize(("L", "S"), [(16, 237), (1, 1), (128, 300)])
def test_softcap_attention(L: int, S: int, window: int | None, dtype: torch.dtype) -> None:
    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda").to(dtype)

    angles = torch.rand(L, 128, device="cuda").repeat(1, 2) * 6
    tensors = (
        random(L, 2048),
        random(L, 1024),
        random(L, 1024),
        random(4, S, 256),
        random(4, S, 256),
    )
    turns = angles.cos().to(dtype), angles.sin().to(dtype)
    rest = {"scale": 1 / 16, "cap": 50.0, "window": window}
    out = softcap_attention(*tensors, *turns, **rest)
    expected = reference.softcap_attention(*tensors, *turns, **rest)
    close = {"rtol": NEIGHBOURS[dtype], "atol": 2 * NEIGHBOURS[dtype]}
    torch.testing.assert_close(out, expected, **close)


@pytest.mark.parametrize("depends", [False, True], ids=["usual", "dependent"])
def test_launches_in_a_row(depends: bool) -> None:
    """Each reads what the one before wrote: without waiting, some would read too early."""
    device = torch.device("cuda", torch.cuda.current_device())
    x = torch.randn(4096, 1152, device=device).bfloat16()
    rest = {
        "shift": torch.randn(1, 1152, device=device),
        "scale": torch.randn(1, 1152, device=device),
    }

    def chain() -> Tensor:
        out = x.clone()
        for _ in range(50):
            out = layer_norm_modulate(out, eps=1e-6, **rest)
        return out

    expected = chain()
    with dependent_launches(device) if depends else nullcontext():
        chain()  # compiles
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = chain()
    for _ in range(20):
        graph.replay()
        assert torch.equal(captured, expected)


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
        lambda tile: linear_w8a8(q, scales[0], weight, scales[1], tile=tile), LINEAR_CANDIDATES
    )
    assert 0 < ranked[0][1] <= ranked[-1][1]
