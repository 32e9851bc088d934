"""The items of `gpu_suite.py`, each run as `python -m benchmarks.gpu_items NAME ANSWER.json [--rehearse]`.

An item keeps what it has found whenever there is more: one that is ended by its limit has not measured in vain. `wrong` in an
answer says what disagrees. In a rehearsal sizes are tiny, and the device is that of `tests/rehearsal`.
"""

import importlib
import importlib.util
import inspect
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from torch.nn import functional as F

from benchmarks import engine_gpu, gpu_whole, kernels_gpu
from benchmarks.gpu_timing import time_launched_ms, time_ms
from quant.backends.attempt import Failure, attempt
from quant.kernels import tiles
from quant.kernels.conv3x3_w8a8 import conv3x3_w8a8
from quant.kernels.conv3x3_w8a8 import repack as repack_conv
from quant.kernels.linear_w8a8 import linear_w8a8, linear_w8a8_on_load
from sana_cli.accelerate.cuda.kernels import NAMES, TRITON
from sana_cli.accelerate.cuda.trial import Widths, trial
from sana_cli.config.networks import TransformerConfig
from sana_cli.config.variants import VARIANTS

DEVICE = torch.device("cuda")
Found = dict[str, Any]
Keep = Callable[[Found], None]  # takes what was found so far


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes to measure: all of them on a device, few in a rehearsal."""

    rounds: int = 10
    sides: tuple[int, ...] = (1024, 512)
    decoder: str = "random"
    tokens: int = 2048
    products: tuple[tuple[int, int], ...] = kernels_gpu.LINEARS
    widths: tuple[Widths, ...] = (Widths(1152, 2880, 32, 72), Widths(2240, 5600, 32, 112))
    ceiling: int = 8192
    copy_bytes: int = 2**30
    large: tuple[int, ...] = (1024, 2048, 4096)  # sides of pictures whose memory is compared
    tuned: tuple[int, ...] = (2048, 512, 8192)  # tokens of products whose tiles are tried
    convolutions: tuple[tuple[int, int], ...] = kernels_gpu.CONVOLUTIONS
    is_rehearsal: bool = False

    def transformer(self, name: str) -> TransformerConfig:
        config = TransformerConfig(**asdict(VARIANTS[name].structure))
        if not self.is_rehearsal:
            return config
        return replace(
            config, num_layers=2, num_attention_heads=2, num_cross_attention_heads=4,
            cross_attention_head_dim=16, cross_attention_dim=64, caption_channels=16,
        )  # fmt: skip


TINY = Sizes(
    rounds=1, sides=(128,), decoder="builtin", tokens=32, products=((64, 64),),
    widths=(Widths(64, 160, 32, 16),), ceiling=64, copy_bytes=2**10, large=(64, 128), tuned=(32,),
    convolutions=((8, 64),), is_rehearsal=True,
)  # fmt: skip


def facts(sizes: Sizes, keep: Keep) -> Found:
    """The device, and what it reaches at best: operations and bytes a second."""
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    found: Found = {
        "device": properties.name, "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count, "free_bytes": free, "total_bytes": total,
        "torch": torch.__version__, "triton": _version("triton"), "python": platform.python_version(),
        "gcc": shutil.which("gcc") or shutil.which("cc"), "libcuda": _libcuda(), "smi": _smi(),
    }  # fmt: skip
    keep(found)
    n = sizes.ceiling
    a, b = (torch.randn(n, n, device=DEVICE).bfloat16() for _ in range(2))
    copy = torch.empty(sizes.copy_bytes, dtype=torch.uint8, device=DEVICE)
    q = kernels_gpu.integers(n, n)
    trials: dict[str, tuple[float, Callable[[], object]]] = {
        "copy_gb_s": (2 * copy.numel() / 1e6, copy.clone),
        "bf16_tops": (2 * n**3 / 1e9, lambda: a @ b),
        "int8_tops": (2 * n**3 / 1e9, lambda: torch._int_mm(q, q.T)),
        "fp8_tops": (2 * n**3 / 1e9, _fp8(a, b)),
    }
    for name, (work, run) in trials.items():
        ms = _time(run)
        found[name] = work / ms if isinstance(ms, float) else ms
        keep(found)
    return found


def _fp8(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], object]:
    """Rows of e4m3 with a scale each, as a w8a8 of floats would be multiplied; x (M, K), weight (N, K)."""

    def run() -> object:
        rows = [t.to(torch.float8_e4m3fn) for t in (x, weight)]
        scales = [torch.ones(len(x), 1, device=DEVICE), torch.ones(1, len(weight), device=DEVICE)]
        return torch._scaled_mm(
            rows[0], rows[1].T, scale_a=scales[0], scale_b=scales[1], out_dtype=torch.bfloat16
        )

    return run


def _version(package: str) -> str:
    found = attempt(lambda: importlib.import_module(package).__version__)
    return found.reason if isinstance(found, Failure) else str(found)


def _libcuda() -> str:
    done = attempt(
        lambda: subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, timeout=20)
    )
    if isinstance(done, Failure):
        return done.reason
    return next((line.strip() for line in done.stdout.splitlines() if "libcuda.so.1" in line), "")


def _smi() -> str:
    query = "--query-gpu=driver_version,clocks.sm,clocks.mem,power.limit,temperature.gpu"
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    done = attempt(lambda: subprocess.run(command, capture_output=True, text=True, timeout=20))
    return done.reason if isinstance(done, Failure) else done.stdout.strip()


def kernels(sizes: Sizes, keep: Keep) -> Found:
    """Compare each kernel of the engine with its definition, at the widths of published models."""
    found: Found = {"kernels": []}
    wrong = []
    for widths in sizes.widths:
        for dtype in (torch.bfloat16, torch.float16):
            for name in NAMES:
                verdict = trial(name, TRITON, widths, dtype, DEVICE)
                case = {
                    "kernel": name,
                    "width": widths.inner,
                    "dtype": str(dtype),
                    "verdict": str(verdict),
                }
                found["kernels"].append(case)
                if verdict != "right":
                    wrong.append(f"{name} {widths.inner} {dtype} {verdict}")
                keep(found)
    return found | ({"wrong": "; ".join(wrong)} if wrong else {})


def picture(sizes: Sizes, keep: Keep) -> Found:
    """A picture by the built-in model, with kernels of ours and without. Needs no more packages than models do."""
    import numpy as np

    from sana_cli.pipeline import SanaPipeline

    pictures, found = [], {}
    for backend in ("auto", "reference"):
        options: dict[str, Any] = {"precision": "fp32", "prompt_cache": False, "backend": backend}
        with SanaPipeline.open("builtin", device="cuda", **options) as pipe:
            result = pipe("a red fox", seed=1, steps=4, width=64, height=64)
        pictures.append(np.asarray(result.image).astype(int))
        found[f"{backend}_seconds"] = result.seconds["total"]
        keep(found)
    difference = int(np.abs(pictures[0] - pictures[1]).max())
    found["largest_difference"] = difference
    return found | ({"wrong": f"pictures differ by {difference} of 255"} if difference > 2 else {})


def step(variant: str, scheme: str) -> Callable[[Sizes, Keep], Found]:
    """A guided step by the plain model, the engine and its graph; and how far the engine is from the model."""

    def run(sizes: Sizes, keep: Keep) -> Found:
        found: Found = {"variant": variant, "scheme": scheme, "steps": []}
        config = sizes.transformer(variant)
        for row in engine_gpu.measure(scheme, config, sizes.sides, sizes.rounds):
            found["steps"].append(row)
            keep(found)
        wrong = [row["engine"] for row in found["steps"] if "graph captured" not in row["engine"]]
        return found | ({"wrong": f"no graph: {wrong[0]}"} if wrong else {})

    return run


def products(sizes: Sizes, keep: Keep) -> Found:
    """Compare our int8 products, by the table's tile, with those of libraries, for a guided picture of 1024 pixels."""
    n = sizes.ceiling
    square = kernels_gpu.integers(n, n)
    peak = _time(lambda: torch._int_mm(square, square.T))
    found: Found = {"int8_tops": 2 * n**3 / 1e9 / peak if isinstance(peak, float) else peak}
    found["products"] = []
    for K, N in sizes.products:
        row = _product(sizes.tokens, K, N)
        if isinstance(row["ours_ms"], float) and isinstance(peak, float):
            row["share_of_peak"] = sizes.tokens * K * N / n**3 * peak / row["ours_ms"]
        found["products"].append(row)
        keep(found)
    return found


def _product(M: int, K: int, N: int) -> Found:
    q, weight = kernels_gpu.integers(M, K), kernels_gpu.integers(N, K)
    scale, weight_scale = torch.rand(M, device=DEVICE), torch.rand(N, device=DEVICE)
    x, dense = q.bfloat16(), weight.bfloat16()
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: linear_w8a8(q, scale, weight, weight_scale, out_dtype=torch.bfloat16),
        "bf16": lambda: F.linear(x, dense),
        "int_mm": lambda: torch._int_mm(q, weight.T),
        "fp8": _fp8(x, dense),
    }
    times = {f"{way}_ms": _time(run) for way, run in ways.items()}
    return {"shape": f"{M}x{K}x{N}"} | times


def blocks(sizes: Sizes, keep: Keep) -> Found:
    """Kernels between products, as a share of a copy's bandwidth."""
    copy = torch.empty(sizes.copy_bytes, dtype=torch.uint8, device=DEVICE)
    ceiling = {"copy_gb_s": 2 * copy.numel() / time_ms(copy.clone) / 1e6}
    found: Found = {"kernels": []}
    for widths in sizes.widths:
        for row in kernels_gpu._block(sizes.tokens, widths.inner, widths.hidden, ceiling):
            found["kernels"].append(row)
            keep(found)
    return found


def tests(sizes: Sizes, keep: Keep) -> Found:
    """The project's own tests that need a device, by path: others import what may not be there."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "--maxfail=20",
        "-p",
        "no:cacheprovider",
    ]
    if importlib.util.find_spec("xdist") is not None and not sizes.is_rehearsal:
        command += ["-n", "8"]
    if sizes.is_rehearsal:
        command += ["--collect-only"]
    command += ["tests/unit/kernels", "tests/unit/accelerate/cuda/test_on_gpu.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout.strip().splitlines()
    found: Found = {"said": said[-1] if said else ""}
    if done.returncode:
        failed = [line for line in said if line.startswith(("FAILED", "ERROR"))]
        found |= {"failed": [{"test": line[:200]} for line in failed], "wrong": found["said"]}
    return found


def tile_table(sizes: Sizes, keep: Keep) -> Found:
    """Every tile of the int8 products and convolutions; `gpu_tiles.py` makes the fastest ship."""
    found: Found = {"tiles": []}
    for M in sizes.tuned:
        for K, N in sizes.products:
            for kernel in ("linear_w8a8", "linear_w8a8_on_load"):
                found["tiles"].append(_tiles_of(kernel, M, K, N))
                keep(found)
    for S, K in sizes.convolutions:
        found["tiles"].append(_tiles_of("conv3x3_w8a8", S * S, K, K))
        keep(found)
    return found


_TABLES = {
    "linear_w8a8": tiles.LINEAR_W8A8, "linear_w8a8_on_load": tiles.LINEAR_W8A8_ON_LOAD,
    "conv3x3_w8a8": tiles.CONV3X3_W8A8,
}  # fmt: skip


def _tiles_of(kernel: str, M: int, K: int, N: int) -> Found:
    run = _product_by_tile(kernel, M, K, N)
    candidates = dict.fromkeys((*tiles.INT8_CANDIDATES, *tiles.tiles_of(_TABLES[kernel])))
    times = {tile: _time(partial(run, tile)) for tile in candidates}
    measured = {tile: ms for tile, ms in times.items() if isinstance(ms, float)}
    best = min(measured, key=lambda tile: measured[tile], default=None)
    chosen = tiles.tile_for(_TABLES[kernel], M, N, K)
    return {
        "kernel": kernel, "shape": f"{M}x{K}x{N}", "table_ms": measured.get(chosen, float("inf")),
        "best_ms": measured[best] if best else 0.0,
        "best_tile": [best.m, best.n, best.k, best.warps, best.stages, best.group, best.extra] if best else [],
        "times": {f"{t.m}x{t.n}x{t.k} {t.warps}w {t.stages}s": ms for t, ms in times.items()},
    }  # fmt: skip


def _product_by_tile(kernel: str, M: int, K: int, N: int) -> Callable[[tiles.Tile], object]:
    scale, weight_scale = torch.rand(M, device=DEVICE), torch.rand(N, device=DEVICE)
    if kernel == "conv3x3_w8a8":
        side = math.isqrt(M)
        q = kernels_gpu.integers(1, side, side, K)
        packed = repack_conv(kernels_gpu.integers(N, K, 3, 3))
        return lambda tile: conv3x3_w8a8(q, scale[0], packed, weight_scale, tile=tile)
    weight = kernels_gpu.integers(N, K)
    if kernel == "linear_w8a8":
        q = kernels_gpu.integers(M, K)
        return lambda tile: linear_w8a8(q, scale, weight, weight_scale, tile=tile)
    x = torch.randn(M, K, device=DEVICE).bfloat16()
    largest = x.float().abs().amax(dim=1)
    return lambda tile: linear_w8a8_on_load(x, largest, weight, weight_scale, tile=tile)


def _time(run: Callable[[], object]) -> float | str:
    """Milliseconds, or why it does not run here."""
    ms = attempt(partial(time_ms, run))
    return ms.reason if isinstance(ms, Failure) else ms


def diffusers(sizes: Sizes, keep: Keep) -> Found:
    """The same step and the same decoder by diffusers, eager and compiled."""
    require("diffusers")
    found: Found = {}
    for stage, (model, inputs) in {
        "step": _their_transformer(sizes), "decode": _their_decoder(sizes),
    }.items():  # fmt: skip
        ways: dict[str, Any] = {"eager": model}
        if not sizes.is_rehearsal:
            ways["compiled"] = torch.compile(model, mode="max-autotune")  # with graphs of its own
        for way, forward in ways.items():
            found[f"{stage}_{way}_ms"] = time_launched_ms(partial(forward, *inputs))
            keep(found)
    return found


def _their_transformer(sizes: Sizes) -> tuple[Any, tuple[torch.Tensor, ...]]:
    from diffusers import SanaTransformer2DModel

    config = asdict(sizes.transformer("sana-0.6b"))
    names = inspect.signature(SanaTransformer2DModel.__init__).parameters
    known = {name: value for name, value in config.items() if name in names}
    model = SanaTransformer2DModel(**known).to(DEVICE, torch.bfloat16).eval()
    side = sizes.sides[0] // 32
    latents = torch.randn(2, config["in_channels"], side, side).to(DEVICE, torch.bfloat16)
    text = torch.randn(2, 300, config["caption_channels"]).to(DEVICE, torch.bfloat16)
    return model, (latents, text, torch.full((2,), 700.0, device=DEVICE))


def _their_decoder(sizes: Sizes) -> tuple[Any, tuple[torch.Tensor, ...]]:
    from diffusers import AutoencoderDC

    small: dict[str, Any] = {} if not sizes.is_rehearsal else _SMALL_AUTOENCODER
    vae = AutoencoderDC(**_AUTOENCODER | small).to(DEVICE, torch.bfloat16).eval()
    side = sizes.sides[0] // 32
    return vae.decoder, (torch.randn(1, 32, side, side).to(DEVICE, torch.bfloat16),)


_BLOCKS = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
_SCALES: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
_AUTOENCODER: dict[str, Any] = {  # as published
    "latent_channels": 32, "encoder_block_types": _BLOCKS, "decoder_block_types": _BLOCKS,
    "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3), "decoder_layers_per_block": (3,) * 6,
    "encoder_qkv_multiscales": _SCALES, "decoder_qkv_multiscales": _SCALES,
    "upsample_block_type": "interpolate", "downsample_block_type": "Conv",
    "decoder_norm_types": "rms_norm", "decoder_act_fns": "silu", "scaling_factor": 0.41407,
}  # fmt: skip
_SMALL_AUTOENCODER: dict[str, Any] = {
    "encoder_block_out_channels": (16, 32, 32, 32, 64, 64),
    "decoder_block_out_channels": (16, 32, 32, 32, 64, 128),
    "encoder_layers_per_block": (1,) * 6, "decoder_layers_per_block": (1,) * 6,
}  # fmt: skip


class Missing(Exception):
    """Return what an item needs and this machine lacks."""


def require(*packages: str) -> None:
    """Raise Missing for a package that is not installed: the item is skipped, and the page says so."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        raise Missing(f"{' and '.join(absent)} is not installed")


def stage_of(sizes: Sizes, variant: str, sides: tuple[int, ...] = ()) -> gpu_whole.Stage:
    """List what whole stages run on."""
    return gpu_whole.Stage(
        config=sizes.transformer(variant), decoder=sizes.decoder, sides=sides or sizes.sides,
        tile=64 if sizes.is_rehearsal else 512, margin=8.0 if sizes.is_rehearsal else 1.15,
    )  # fmt: skip


def whole(scheme: Literal["bf16", "w8a8"]) -> Callable[[Sizes, Keep], Found]:
    """A whole picture by random weights of Sana-0.6B."""
    return lambda sizes, keep: gpu_whole.picture(stage_of(sizes, "sana-0.6b"), scheme, keep)


def profiled(scheme: str) -> Callable[[Sizes, Keep], Found]:
    """Show where the time of a step of Sana-0.6B goes."""
    return lambda sizes, keep: gpu_whole.profile(stage_of(sizes, "sana-0.6b"), scheme, keep)


def decode(sizes: Sizes, keep: Keep) -> Found:
    """The decoder of a picture."""
    return gpu_whole.decode(stage_of(sizes, "sana-0.6b"), keep)


def memory(sizes: Sizes, keep: Keep) -> Found:
    """Peaks against the forecast, and caps that hold."""
    return gpu_whole.memory(stage_of(sizes, "sana-0.6b", sizes.large), keep)


ITEMS: dict[str, Callable[[Sizes, Keep], Found]] = {
    "facts": facts,
    "kernels": kernels,
    "picture": picture,
    "picture-0.6b": whole("bf16"),
    "step-bf16": step("sana-0.6b", "bf16"),
    "step-w8a8": step("sana-0.6b", "w8a8"),
    "decode": decode,
    "products": products,
    "blocks": blocks,
    "profile-w8a8": profiled("w8a8"),
    "diffusers": diffusers,
    "step-f8a8": step("sana-0.6b", "f8a8"),
    "picture-0.6b-w8a8": whole("w8a8"),
    "step-1.6b-bf16": step("sana-1.6b", "bf16"),
    "step-1.6b-w8a8": step("sana-1.6b", "w8a8"),
    "memory": memory,
    "profile-bf16": profiled("bf16"),
    "tiles": tile_table,
    "tests": tests,
}


def main(
    name: Annotated[str, typer.Argument(help="An item.")],
    answer: Annotated[Path, typer.Argument(help="The file of what is found.")],
    rehearse: bool = False,
) -> None:
    """Run one item."""

    def keep(found: Found) -> None:
        beside = answer.with_suffix(".part")
        beside.write_text(json.dumps(found, default=str), encoding="utf-8")
        os.replace(beside, answer)

    def run(sizes: Sizes) -> None:
        with torch.inference_mode():
            try:
                keep(ITEMS[name](sizes, keep))
            except (Missing, ModuleNotFoundError) as missing:
                keep({"skipped": str(missing)})

    if not rehearse:
        run(Sizes())
        return
    os.environ["TRITON_INTERPRET"] = "1"
    from tests.rehearsal.device import Calls
    from tests.rehearsal.install import install, small_probes

    torch.__future__.set_overwrite_module_params_on_conversion(True)
    install()
    small_probes()
    with Calls():
        run(TINY)


if __name__ == "__main__":
    typer.run(main)
