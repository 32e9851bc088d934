"""Time every kernel on this CUDA device over the shapes of Sana, compared with torch's for the
same.

`python -m benchmarks.kernels_gpu` prints a table and, as its last line, one JSON document, which it
also writes to `benchmarks/results/`. With `--tune` it also times every tile and says where the
table is wrong. A share is of what a large product or copy reached in the same run: for a
datasheet's peak no clock is known.
"""

import argparse
import json
import math
import platform
import re
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.gpu_timing import time_ms
from benchmarks.record import record
from quant.kernels import tiles
from quant.kernels.autotune import rank
from quant.kernels.conv3x3_w8a8 import conv3x3_w8a8
from quant.kernels.conv3x3_w8a8 import repack as repack_conv
from quant.kernels.cross_attention import cross_attention_w8a8
from quant.kernels.depthwise3x3_glu import depthwise3x3_glu
from quant.kernels.depthwise3x3_glu import repack as repack_depthwise
from quant.kernels.layer_norm_modulate import layer_norm_modulate, layer_norm_modulate_quantize
from quant.kernels.linear_w4a16 import linear_w4a16, repack
from quant.kernels.linear_w8a8 import linear_w8a8, linear_w8a8_on_load
from quant.kernels.quantize_per_token import quantize_per_token
from quant.kernels.relu_linear_attention import relu_linear_attention
from quant.kernels.rms_norm import rms_norm
from quant.packing import pack_int4
from quant.primitives import quantize_per_group

# M rows (tokens), K input channels, N output channels, S side of a picture

TOKENS = (512, 2048, 8192, 32768)  # guided pictures of 512 to 4096 pixels
LINEARS = (
    (1152, 1152), (1152, 3456), (1152, 5760), (2880, 1152),  # Sana-0.6B
    (2240, 2240), (2240, 6720), (2240, 11200), (5600, 2240),  # Sana-1.6B
)  # fmt: skip
TEXTS = ((1152, 16), (2240, 20))  # (D, heads) of cross-attention
TEXT_TOKENS = (40, 300)
WIDTHS = ((1152, 2880), (2240, 5600))  # (D, hidden) of Sana-0.6B and 1.6B
PIXELS = ((1024, 128), (512, 256), (256, 512))  # (S, C): norms of DC-AE at 1024 pixels
CONVOLUTIONS = ((128, 512), (256, 512), (512, 256), (1024, 128))  # (S, K): DC-AE at 1024 pixels
GEMMA = ((2304, 2048), (2048, 2304), (2304, 9216), (9216, 2304))
PROMPTS = (1, 16, 64, 512)
GROUP_SIZE = 64

Row = dict[str, Any]


def ceilings() -> dict[str, float]:
    """Measure the device's best rates: operations and bytes a second."""
    size = 8192
    a, b = (torch.randn(size, size, device="cuda").bfloat16() for _ in range(2))
    qa, qb = integers(size, size), integers(size, size)
    operations = 2 * size**3
    copy = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    return {
        "bf16_tops": operations / time_ms(lambda: a @ b) / 1e9,
        "int8_tops": operations / time_ms(lambda: torch._int_mm(qa, qb.T)) / 1e9,
        "copy_gb_s": 2 * copy.numel() / time_ms(copy.clone) / 1e6,
    }


def integers(*shape: int) -> torch.Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int8, device="cuda")


def rows(ceiling: dict[str, float], *, tune: bool) -> Iterator[Row]:
    for M in TOKENS:
        for K in sorted({K for K, _ in LINEARS}):
            yield _quantize(M, K, ceiling)
        for D, hidden in WIDTHS:
            yield from _block(M, D, hidden, ceiling)
        for K, N in LINEARS:
            yield _linear_w8a8(M, K, N, ceiling, tune=tune)
            yield _linear_on_load(M, K, N, ceiling, tune=tune)
        for D, heads in TEXTS:
            for L in TEXT_TOKENS:
                yield _cross_attention(M // 2, D, heads, L, ceiling)
    for S, C in PIXELS:
        yield _pixel_norm(S, C, ceiling)
    for S, K in CONVOLUTIONS:
        yield _conv3x3_w8a8(S, K, ceiling, tune=tune)
    for M in PROMPTS:
        for K, N in GEMMA:
            yield _linear_w4a16(M, K, N, ceiling, tune=tune)


def _quantize(M: int, K: int, ceiling: dict[str, float]) -> Row:
    x = torch.randn(M, K, device="cuda").bfloat16()
    moved = M * (3 * K + 4)  # reads 2 bytes, writes 1
    return _of_copy("quantize_per_token", f"{M}x{K}", moved, lambda: quantize_per_token(x), ceiling)


def _block(M: int, D: int, hidden: int, ceiling: dict[str, float]) -> Iterator[Row]:
    """Yield the kernels between the products of a block, on two square pictures of M tokens together."""
    side = round((M // 2) ** 0.5)
    x, branch = (torch.randn(M, D, device="cuda").bfloat16() for _ in range(2))
    gate, shift, scale = torch.randn(3, 1, D, device="cuda")
    rest = {"shift": shift, "scale": scale, "eps": 1e-6}
    qkv = torch.randn(M, 3, D, device="cuda").bfloat16()
    heads = qkv.view(2, M // 2, -1, 32).chunk(3, dim=2)
    wide = torch.randn(2, side, side, 2 * hidden, device="cuda").bfloat16()
    weight = repack_depthwise(torch.randn(2 * hidden, 1, 3, 3, device="cuda").bfloat16())
    bias, norm = torch.randn(2 * hidden, device="cuda"), torch.ones(2, D, device="cuda")
    parts = qkv[:, :2]
    # Bytes as each must read and write them, 2 a value and 1 of int8; the second reading of q, k, v's
    # sums and of rows next to a strip stays in caches.
    for kernel, bytes_a_token, run in (
        ("layer_norm_modulate", 4 * D, lambda: layer_norm_modulate(x, **rest)),
        (
            "layer_norm_modulate +",
            8 * D,
            lambda: layer_norm_modulate(x, branch=branch, gate=gate, **rest),
        ),
        ("layer_norm_quantize", 3 * D, lambda: layer_norm_modulate_quantize(x, **rest)),
        ("relu_linear_attention", 8 * D, lambda: relu_linear_attention(*heads)),
        ("depthwise3x3_glu", 6 * hidden, lambda: depthwise3x3_glu(wide, weight, bias)),
        (
            "depthwise3x3_glu silu",
            6 * hidden,
            lambda: depthwise3x3_glu(wide, weight, bias, activation="silu"),
        ),
        ("rms_norm q k", 8 * D, lambda: rms_norm(parts, norm, eps=1e-5, out=parts)),
    ):
        yield _of_copy(
            kernel, f"{M}x{hidden if 'glu' in kernel else D}", M * bytes_a_token, run, ceiling
        )


def _pixel_norm(S: int, C: int, ceiling: dict[str, float]) -> Row:
    x, residual = (torch.randn(S * S, 1, C, device="cuda").bfloat16() for _ in range(2))
    one = torch.ones(1, C, device="cuda")
    moved = S * S * C * 6
    return _of_copy(
        "rms_norm residual", f"{S}x{S}x{C}", moved,
        lambda: rms_norm(x, one, eps=1e-5, bias=one, residual=residual), ceiling,
    )  # fmt: skip


def _of_copy(
    kernel: str, shape: str, moved: int, run: Callable[[], object], ceiling: dict[str, float]
) -> Row:
    """A kernel that is bound by the bytes it moves."""
    ms = time_ms(run)
    share = moved / ms / 1e6 / ceiling["copy_gb_s"]
    return {"kernel": kernel, "shape": shape, "ms": ms, "share": share, "share_of": "copy"}


def _linear_w8a8(M: int, K: int, N: int, ceiling: dict[str, float], *, tune: bool) -> Row:
    q, weight = integers(M, K), integers(N, K)
    scales = torch.rand(M, device="cuda"), torch.rand(N, device="cuda")
    bias, gate = torch.randn(N, device="cuda"), torch.randn(2, N, device="cuda")
    residual = torch.randn(M, N, device="cuda").bfloat16()
    x, dense = (
        torch.randn_like(q, dtype=torch.bfloat16),
        torch.randn(N, K, device="cuda").bfloat16(),
    )

    def run(tile: tiles.Tile | None = None) -> object:
        return linear_w8a8(q, scales[0], weight, scales[1], bias=bias, tile=tile)

    ms = time_ms(run)
    row = {
        "kernel": "linear_w8a8",
        "shape": f"{M}x{K}x{N}",
        "ms": ms,
        "with_gate_and_residual_ms": time_ms(
            lambda: linear_w8a8(
                q, scales[0], weight, scales[1], bias=bias, gate=gate, residual=residual
            )
        ),
        "torch_bf16_ms": time_ms(lambda: F.linear(x, dense)),
        "torch_int_mm_ms": time_ms(lambda: torch._int_mm(q, weight.T)),  # int32, no epilogue
        "share": 2 * M * K * N / ms / 1e9 / ceiling["int8_tops"],
        "share_of": "int8",
    }
    chosen = tiles.tile_for(tiles.LINEAR_W8A8, M, N, K)
    return row | (_tuned(run, tiles.LINEAR_CANDIDATES, chosen) if tune else {})


def _linear_on_load(M: int, K: int, N: int, ceiling: dict[str, float], *, tune: bool) -> Row:
    """Time the product that quantizes on load, compared with the two launches that it replaces."""
    x, weight = torch.randn(M, K, device="cuda").bfloat16(), integers(N, K)
    largest, scale = x.float().abs().amax(dim=1), torch.rand(N, device="cuda")
    residual = torch.randn(M, N, device="cuda").bfloat16()

    def run(tile: tiles.Tile | None = None) -> object:
        return linear_w8a8_on_load(x, largest, weight, scale, residual=residual, tile=tile)

    ms = time_ms(run)
    row = {
        "kernel": "linear_w8a8_on_load",
        "shape": f"{M}x{K}x{N}",
        "ms": ms,
        "two_launches_ms": time_ms(
            lambda: linear_w8a8(*quantize_per_token(x), weight, scale, residual=residual)
        ),
        "share": 2 * M * K * N / ms / 1e9 / ceiling["int8_tops"],
        "share_of": "int8",
    }
    chosen = tiles.tile_for(tiles.LINEAR_W8A8_ON_LOAD, M, N, K)
    return row | (_tuned(run, tiles.tiles_of(tiles.LINEAR_W8A8_ON_LOAD), chosen) if tune else {})


def _cross_attention(M: int, D: int, heads: int, L: int, ceiling: dict[str, float]) -> Row:
    """Time one picture's queries and attention, compared with the three launches that they replace."""
    x, weight = torch.randn(M, D, device="cuda").bfloat16(), integers(D, D)
    largest, scale = x.float().abs().amax(dim=1), torch.rand(D, device="cuda") / 1e4
    keys, values = (
        torch.randn(1, L, D, device="cuda").bfloat16().unflatten(-1, (heads, -1)).transpose(1, 2)
        for _ in range(2)
    )

    def three_launches() -> object:
        q = linear_w8a8(*quantize_per_token(x), weight, scale)
        q = q.view(1, M, heads, -1).transpose(1, 2)
        return F.scaled_dot_product_attention(q, keys, values)

    ms = time_ms(lambda: cross_attention_w8a8(x, largest, weight, scale, keys, values))
    return {
        "kernel": "cross_attention_w8a8",
        "shape": f"{M}x{D} {L} tokens",
        "ms": ms,
        "three_launches_ms": time_ms(three_launches),
        "share": 2 * M * D * D / ms / 1e9 / ceiling["int8_tops"],
        "share_of": "int8",
    }


def _conv3x3_w8a8(S: int, K: int, ceiling: dict[str, float], *, tune: bool) -> Row:
    q, weight = integers(1, S, S, K), integers(K, K, 3, 3)
    scales = torch.tensor(0.01, device="cuda"), torch.rand(K, device="cuda")
    bias, packed = torch.randn(K, device="cuda"), repack_conv(weight)
    x = torch.randn(1, K, S, S, device="cuda").bfloat16().to(memory_format=torch.channels_last)
    dense = weight.bfloat16().to(memory_format=torch.channels_last)

    def run(tile: tiles.Tile | None = None) -> object:
        return conv3x3_w8a8(q, scales[0], packed, scales[1], bias=bias, tile=tile)

    ms = time_ms(run)
    row = {
        "kernel": "conv3x3_w8a8",
        "shape": f"{S}x{S}x{K}",
        "ms": ms,
        "torch_bf16_ms": time_ms(lambda: F.conv2d(x, dense, padding=1)),
        "share": 18 * S * S * K * K / ms / 1e9 / ceiling["int8_tops"],
        "share_of": "int8",
    }
    chosen = tiles.tile_for(tiles.CONV3X3_W8A8, S * S, K, K)
    return row | (_tuned(run, tiles.INT8_CANDIDATES, chosen) if tune else {})


def _linear_w4a16(M: int, K: int, N: int, ceiling: dict[str, float], *, tune: bool) -> Row:
    dense = torch.randn(N, K, device="cuda")
    q, scale = quantize_per_group(dense, GROUP_SIZE)
    weight = repack(pack_int4(q), scale, in_features=K, group_size=GROUP_SIZE)
    x, dense = torch.randn(M, K, device="cuda").bfloat16(), dense.bfloat16()

    def run(tile: tiles.Tile | None = None) -> object:
        return linear_w4a16(x, weight, tile=tile)

    ms = time_ms(run)
    moved = weight.packed.numel() + 2 * weight.scale.numel() + 2 * M * (K + N)
    row = {
        "kernel": "linear_w4a16",
        "shape": f"{M}x{K}x{N}",
        "ms": ms,
        "torch_bf16_ms": time_ms(lambda: F.linear(x, dense)),
        # Of whichever bound is nearer: reading the weights, or bf16 products.
        "share": max(
            moved / ms / 1e6 / ceiling["copy_gb_s"], 2 * M * K * N / ms / 1e9 / ceiling["bf16_tops"]
        ),
        "share_of": "copy or bf16",
    }
    chosen = tiles.tile_for(tiles.LINEAR_W4A16, M, N, K)
    return row | (_tuned(run, tiles.tiles_of(tiles.LINEAR_W4A16), chosen) if tune else {})


def _tuned(
    run: Callable[[tiles.Tile], object], candidates: tuple[tiles.Tile, ...], chosen: tiles.Tile
) -> Row:
    """Times of all tiles; how much slower the table's is than the best of them."""
    ranked = rank(run, candidates)
    times = {f"{t.m}x{t.n}x{t.k} {t.warps}w {t.stages}s": ms for t, ms in ranked}
    return {"tiles": times, "table_over_best": dict(ranked).get(chosen, math.nan) / ranked[0][1]}


def machine() -> Row:
    import triton

    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


def _line(row: Row) -> str:
    def ms(name: str) -> str:
        return f"{row[name]:>10.4f}" if name in row else f"{'':>10}"

    worse = f"  table is {row['table_over_best']:.2f} x the best" if "tiles" in row else ""
    return (
        f"{row['kernel']:<22}{row['shape']:<20}{ms('ms')}{ms('torch_bf16_ms')}{ms('torch_int_mm_ms')}"
        f"{row['share']:>8.0%} of {row['share_of']}{worse}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time every kernel on the CUDA device at hand.")
    parser.add_argument("--tune", action="store_true", help="time every tile too")
    tune = parser.parse_args().tune
    if not torch.cuda.is_available():
        parser.exit(3, "error: no CUDA device\n")
    document: Row = {"benchmark": "kernels_gpu", "date": date.today().isoformat()} | machine()
    document["ceilings"] = ceiling = ceilings()
    print(document["device"], {name: round(value) for name, value in ceiling.items()})
    print(f"{'kernel':<22}{'shape':<20}{'ms':>10}{'bf16':>10}{'_int_mm':>10}{'share':>8}")
    document["kernels"] = []
    for row in rows(ceiling, tune=tune):
        document["kernels"].append(row)
        print(_line(row), flush=True)
    device = re.sub(r"\W+", "-", document["device"]).strip("-").lower()
    record(f"kernels-gpu-{device}-{document['date']}", document)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
