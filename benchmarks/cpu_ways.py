"""Try other ways to multiply 8-bit layers and to convolve on a CPU, in CPU seconds of one thread, in turns.

`python -m benchmarks.cpu_ways [LABEL]` times the layers of a block of Sana-0.6B at 512 pixels, both branches of guidance:
as `quant/backends/cpu.py` runs them, in blocks of tokens that stay in a core's cache from quantizing to scaling, with other
sizes of the blocks in which tokens are quantized, with FBGEMM, and in fp32. And 3x3 convolutions of the decoder in fp32: by
oneDNN in two orders of memory, by NNPACK, which has Winograd's algorithm, and by ours; and those after an up-sampling. And a
4-bit layer of the text encoder, for a few to many tokens. CPU seconds of one thread are almost the same on a busy machine;
the least of all rounds counts. The document goes to `benchmarks/results/`; LABEL is a part of its name.
With `ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 FBGEMM_ENABLE_INSTRUCTIONS=AVX2` it shows
what a CPU without VNNI does.
"""

import time
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.record import record
from quant.backends import cpu, cpu_winograd
from quant.backends.cpu_winograd import winograd_conv
from quant.config import QuantConfig
from quant.convert import quantized_layer
from quant.layers import QuantLinear
from quant.primitives import finish_product
from sana_cli.bench.machine import machine
from sana_cli.models import dc_ae

TOKENS = 512  # of a picture of 512 pixels, two branches
LAYERS = {  # outputs, inputs
    "queries, keys, values": (3456, 1152),
    "attention's output": (1152, 1152),
    "feed-forward, in": (5760, 1152),
    "feed-forward, out": (1152, 2880),
}
CONVOLUTIONS = (
    (64, 128),
    (128, 512),
    (256, 256),
    (512, 128),
    (512, 64),
    (512, 32),
)  # channels, pixels a side
TEXT_LAYER, TEXT_TOKENS = (
    (9216, 2304),
    (8, 16, 32, 64, 128),
)  # outputs, inputs; own words of a prompt
UPSAMPLINGS = ((512, 64), (512, 128), (256, 256))
_TOKEN_BLOCKS = (64, 128, 256)
_ELEMENTS = (2**16, 2**17, 2**18)
Way = Callable[[Tensor], Tensor]


def ways_of(weight_NK: Tensor) -> dict[str, Way]:
    """The ways to multiply fp32 tokens (M, K) by an fp32 weight; each but the last rounds both to 8 bits."""
    scale_N = weight_NK.abs().amax(dim=1) / 63
    q_NK = (weight_NK / scale_N[:, None]).round().to(torch.int8)
    packed, other = cpu._onednn_pack(q_NK, scale_N), cpu._fbgemm_pack(q_NK, scale_N)
    ready_MK = torch.zeros(TOKENS, weight_NK.shape[1], dtype=torch.int8)
    floats = torch.ops.mkldnn._reorder_linear_weight(weight_NK, TOKENS)

    def shipped(x_MK: Tensor) -> Tensor:
        q_MK, scale_M = cpu.quantize_tokens(x_MK)
        return finish_product(cpu._onednn_product(q_MK, packed), scale_M, None)

    def in_blocks(tokens: int) -> Way:
        def run(x_MK: Tensor) -> Tensor:
            out_MN = x_MK.new_empty(len(x_MK), len(q_NK))
            for first in range(0, len(x_MK), tokens):
                rows = slice(first, first + tokens)
                out_MN[rows] = shipped(x_MK[rows])
            return out_MN

        return run

    def quantized_by(elements: int) -> Way:
        def run(x_MK: Tensor) -> Tensor:
            M, K = x_MK.shape
            parts = [cpu.quantize_tokens(x_MK[rows]) for rows in cpu._blocks(M, K, elements)]
            q_MK, scale_M = torch.cat([q for q, _ in parts]), torch.cat([s for _, s in parts])
            return finish_product(cpu._onednn_product(q_MK, packed), scale_M, None)

        return run

    def fbgemm(x_MK: Tensor) -> Tensor:
        q_MK, scale_M = cpu.quantize_tokens(x_MK)
        return finish_product(cpu._fbgemm_product(q_MK, other), scale_M, None)

    return {
        "as shipped": shipped,
        **{f"{tokens} tokens at a time": in_blocks(tokens) for tokens in _TOKEN_BLOCKS},
        **{
            f"tokens quantized {elements // 1024} Ki values at a time": quantized_by(elements)
            for elements in _ELEMENTS
        },
        "FBGEMM": fbgemm,
        "the product alone": lambda _: cpu._onednn_product(ready_MK, packed),
        "fp32": lambda x_MK: torch.ops.mkldnn._linear_pointwise(x_MK, floats, None, "none", [], ""),
    }


def convolutions(x: Tensor) -> dict[str, Way]:
    """The ways to convolve an fp32 map (1, C, H, W) by 3x3 to as many channels, with padding.

    The decoders keep their maps channels last, so that NNPACK, which cannot, needs two copies.
    """
    if not torch._nnpack_available():  # the question also sets NNPACK up, without which it fails
        raise SystemExit("this build of torch has no NNPACK for this processor")
    channels = x.shape[1]
    weight = torch.randn(channels, channels, 3, 3) / (9 * channels) ** 0.5
    bias, last = torch.randn(channels), weight.to(memory_format=torch.channels_last)
    x_last = x.to(memory_format=torch.channels_last)
    nnpack = partial(torch._nnpack_spatial_convolution, weight=weight, bias=bias, padding=1)
    return {
        "oneDNN": lambda x: torch.conv2d(x, weight, bias, padding=1),
        "oneDNN, channels last": lambda _: torch.conv2d(x_last, last, bias, padding=1),
        "NNPACK (Winograd)": nnpack,
        "NNPACK (Winograd), from and to channels last": lambda _: nnpack(
            x_last.contiguous()
        ).contiguous(memory_format=torch.channels_last),
        "Winograd of our own, channels last": lambda _: winograd_conv(x_last, weight, bias),
    }


def upsamplings(x: Tensor) -> dict[str, Way]:
    """The ways to convolve an fp32 map (1, C, H, W) by 3x3 to half as many channels, enlarged to twice its size first."""
    channels = x.shape[1]
    weight = torch.randn(channels // 2, channels, 3, 3) / (9 * channels) ** 0.5
    x_last = x.to(memory_format=torch.channels_last)
    last = weight.to(memory_format=torch.channels_last)
    return {
        "enlarged first": lambda _: torch.conv2d(
            F.interpolate(x_last, scale_factor=2), last, padding=1
        ),
        "four convolutions of 2x2": lambda _: dc_ae.upsampled_conv(x_last, last, None),
        "nine products": lambda _: cpu_winograd.upsampled_conv(x_last, weight, None),
    }


def four_bits() -> tuple[dict[str, Way], dict[str, Way]]:
    """The ways to multiply tokens (M, K) in bf16 by a 4-bit layer, and those to make torch's own product ready."""
    N, K = TEXT_LAYER
    layer = quantized_layer(nn.Linear(K, N, bias=False), QuantConfig(weight_bits=4, group_size=64))
    assert isinstance(layer, QuantLinear)
    scales_GN2 = torch.stack([layer.scale, torch.zeros_like(layer.scale)], -1).transpose(0, 1)
    scales_GN2 = scales_GN2.contiguous().bfloat16()

    def by_torch(_: Tensor) -> Tensor:
        integers = cpu._unpack(layer.qweight, torch.int32) + 8
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(integers, 2)

    def by_bytes(_: Tensor) -> Tensor:
        """The order of processors with AVX-512: 64 outputs at a time, an input's channels n and n + 32 in a byte."""
        packed = torch.empty(N // 64, K // 2, 2, 32, dtype=torch.uint8)
        for block, rows in zip(packed, layer.qweight.view(torch.uint8).split(64), strict=True):
            low, high = rows.split(32)
            block[:, 0] = ((low & 15) | (high << 4)).t()
            block[:, 1] = ((low >> 4) | (high & 240)).t()
        return packed.view(N, K // 2)

    ready = by_torch(scales_GN2)
    products: dict[str, Way] = {
        "expanded, bf16": lambda x_MK: cpu._int4_bf16_run(x_MK, None, layer),
        "expanded, onednn": lambda x_MK: cpu._int4_onednn_run(x_MK.float(), None, layer),
        "torch's int4 product": lambda x_MK: torch.ops.aten._weight_int4pack_mm_for_cpu(
            x_MK, ready, 64, scales_GN2
        ),
    }
    packings: dict[str, Way] = {"torch's packing": by_torch}
    if torch.equal(by_bytes(ready), ready):
        packings["the same packing, of bytes"] = by_bytes
    return products, packings


def timed(ways: dict[str, Way], x_MK: Tensor, rounds: int) -> dict[str, Any]:
    """The least CPU milliseconds of each way, and how many times as fast as the first it is."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(rounds + 1):
        for name, way in ways.items() if run % 2 else reversed(ways.items()):
            started = time.process_time()
            way(x_MK)
            if run:
                seconds[name].append(time.process_time() - started)
    least = {name: min(found) for name, found in seconds.items()}
    first = next(iter(least.values()))
    return {
        name: {"ms": round(took * 1000, 3), "times_as_fast": round(first / took, 3)}
        for name, took in least.items()
    }


def print_rows(title: str, found: dict[str, Any]) -> None:
    print(f"\n{title}")
    for name, row in found.items():
        print(f"  {name:<40}{row['ms']:>10} ms{row['times_as_fast']:>8}")


def timed_maps(
    ways_for: Callable[[Tensor], dict[str, Way]], channels: int, side: int, rounds: int
) -> dict[str, Any]:
    """Time the ways on one map, print them, and how far each is from the first."""
    x = torch.randn(1, channels, side, side)
    ways = ways_for(x)
    want = next(iter(ways.values()))(x)
    found = timed(ways, x, max(2, rounds // 5))
    print(f"\n{ways_for.__name__}: {channels} channels, {side} x {side}")
    for name, row in found.items():
        row["largest_difference"] = float((ways[name](x) - want).abs().max())
        print(f"  {name:<46}{row['ms']:>10} ms{row['times_as_fast']:>8}{row['largest_difference']:>12.1e}")  # fmt: skip
    return found


@torch.inference_mode()
def main(
    label: Annotated[str, typer.Argument(help="A word for the file's name.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Each times every way once.")] = 30,
) -> None:
    """Time, print and keep."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: dict[str, Any] = {}
    for name, (outputs, inputs) in LAYERS.items():
        x_MK, ways = torch.randn(TOKENS, inputs), ways_of(torch.randn(outputs, inputs))
        want = ways["as shipped"](x_MK)
        for other, way in ways.items():
            if other not in ("fp32", "the product alone"):
                torch.testing.assert_close(way(x_MK), want)
        rows[name] = timed(ways, x_MK, rounds)
        print_rows(f"{name} ({outputs} x {inputs})", rows[name])
    maps = {
        f"3x3, {channels} channels, {side} x {side}": timed_maps(
            convolutions, channels, side, rounds
        )
        for channels, side in CONVOLUTIONS
    }
    enlarged = {
        f"3x3, {channels} channels, {side} x {side}": timed_maps(
            upsamplings, channels, side, rounds
        )
        for channels, side in UPSAMPLINGS
    }
    products, packings = four_bits()
    texts = {"packing": timed(packings, torch.empty(0), max(2, rounds // 5))}
    for tokens in TEXT_TOKENS:
        x_MK = torch.randn(tokens, TEXT_LAYER[1]).bfloat16()
        texts[f"{tokens} tokens"] = timed(products, x_MK, max(2, rounds // 5))
    for name, row in texts.items():
        print_rows(f"a 4-bit layer of {TEXT_LAYER[0]} x {TEXT_LAYER[1]}, {name}", row)
    document = {
        "benchmark": "cpu_ways", "date": date.today().isoformat(), "machine": machine(),
        "tokens": TOKENS, "rounds": rounds, "layers": rows, "convolutions": maps,
        "upsamplings": enlarged, "four_bits": texts,
    }  # fmt: skip
    record(f"cpu-ways{f'-{label}' if label else ''}", document)


if __name__ == "__main__":
    typer.run(main)
