"""The items of `gpu_suite.py`, each run as `python -m benchmarks.gpu_items NAME ANSWER.json [--rehearse]`.

An item keeps what it has found whenever there is more: one that is ended by its limit has not measured in vain. `wrong` in an
answer says what disagrees. In a rehearsal sizes are tiny, and the device is that of `tests/rehearsal`.
"""

import importlib
import importlib.util
import inspect
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.nn import functional as F

from benchmarks import engine_gpu, kernels_gpu
from benchmarks.decode import decoder
from benchmarks.denoise_step import random_transformer, step_inputs
from benchmarks.gpu_timing import time_launched_ms, time_ms
from quant.backends.attempt import Failure, attempt
from quant.kernels import tiles
from quant.kernels.linear_w8a8 import linear_w8a8
from sana_cli.accelerate.cuda.decoder import fuse_decoder
from sana_cli.accelerate.cuda.kernels import NAMES, TRITON
from sana_cli.accelerate.cuda.trial import Widths, relative_error, trial
from sana_cli.config.networks import TransformerConfig
from sana_cli.config.variants import VARIANTS
from sana_cli.memory.decoder_sizes import decode_activations
from sana_cli.memory.plans import WHOLE

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
    widths=(Widths(64, 160, 32, 16),), ceiling=64, copy_bytes=2**10, is_rehearsal=True,
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
    """`sana generate` with the built-in model, with kernels of ours and without."""
    import numpy as np
    from PIL import Image

    from sana_cli.cli import main as sana

    pictures, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for backend in ("auto", "reference"):
            path = Path(folder, f"{backend}.png")
            code = sana(
                ["generate", "a red fox", "-m", "builtin", "-o", str(path), "--size", "64x64", "--steps", "4",
                 "--seed", "1", "--device", "cuda", "--precision", "fp32", "--backend", backend, "--no-prompt-cache"]
            )  # fmt: skip
            if code:
                raise RuntimeError(f"sana generate --backend {backend} ended with {code}")
            with Image.open(path, formats=["PNG"]) as image:
                pictures.append(np.asarray(image.convert("RGB")).astype(int))
    found["largest_difference"] = int(np.abs(pictures[0] - pictures[1]).max())
    if found["largest_difference"] > 2:
        return found | {"wrong": f"pictures differ by {found['largest_difference']} of 255"}
    return found


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


def decode(sizes: Sizes, keep: Keep) -> Found:
    """A decoded picture by plain PyTorch and by the fused decoder: time, peak, error."""
    side = sizes.sides[0]
    found: Found = {}
    vae = decoder(sizes.decoder)
    vae.decoder.to(DEVICE, torch.bfloat16)
    z = torch.randn(
        1, vae.config.latent_channels, side // vae.config.downscale, side // vae.config.downscale
    )
    z = z.to(DEVICE, torch.bfloat16)
    pictures = []
    notices: list[str] = []
    for way in ("plain", "fused"):
        if way == "fused":
            fuse_decoder(vae, notice=notices.append)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        pictures.append(vae.decode(z).float())
        found[f"{way}_peak_bytes"] = torch.cuda.max_memory_allocated() - before
        found[f"{way}_ms"] = time_ms(lambda: vae.decode(z))
        keep(found)
    found["predicted_peak_bytes"] = decode_activations(vae.config, WHOLE, side, side, 2)
    found["error"] = relative_error(pictures[1], pictures[0])
    wrong = "; ".join(notices) or (
        "" if found["error"] < 0.1 else f"is off by {found['error']:.2g}"
    )
    return found | ({"wrong": wrong} if wrong else {})


def products(sizes: Sizes, keep: Keep) -> Found:
    """Compare our int8 products, by the table's tile, with those of libraries, for a guided picture of 1024 pixels."""
    found: Found = {"products": []}
    for K, N in sizes.products:
        found["products"].append(_product(sizes.tokens, K, N))
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


def memory(sizes: Sizes, keep: Keep) -> Found:
    """Peaks of a step, first and replayed, and what its graph keeps."""
    found: Found = {"steps": []}
    model = random_transformer(sizes.transformer("sana-0.6b")).to(torch.bfloat16)
    given = [engine_gpu.on_device(*step_inputs(model, side)) for side in sizes.sides]
    model.to(DEVICE)
    from sana_cli.loading.load import accelerate

    accelerate(model, DEVICE, "auto")
    for side, (latents, contexts) in zip(sizes.sides, given, strict=True):
        row: Found = {"side": side}
        for way in ("first", "replay"):
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            model.velocity(latents, 700.0, contexts)
            row[f"{way}_peak_bytes"] = torch.cuda.max_memory_allocated() - before
            row[f"{way}_kept_bytes"] = torch.cuda.memory_allocated() - before
        found["steps"].append(row)
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
    """Every tile of the int8 product, and how much slower the table's is than the best."""
    found: Found = {"tiles": []}
    for M in (sizes.tokens,) if sizes.is_rehearsal else (2048, 512, 8192):
        for K, N in sizes.products:
            found["tiles"].append(_tiles_of(M, K, N))
            keep(found)
    return found


def _tiles_of(M: int, K: int, N: int) -> Found:
    q, weight = kernels_gpu.integers(M, K), kernels_gpu.integers(N, K)
    scale, weight_scale = torch.rand(M, device=DEVICE), torch.rand(N, device=DEVICE)

    def run(tile: tiles.Tile) -> object:
        return linear_w8a8(q, scale, weight, weight_scale, tile=tile)

    times = {
        f"{tile.m}x{tile.n}x{tile.k} {tile.warps}w {tile.stages}s": _time(partial(run, tile))
        for tile in tiles.INT8_CANDIDATES
    }
    best = min(((ms, name) for name, ms in times.items() if isinstance(ms, float)), default=(0, ""))
    chosen = tiles.tile_for(tiles.LINEAR_W8A8, M, N, K)
    return {"shape": f"{M}x{K}x{N}", "best": best[1], "table": str(chosen)} | times


def _time(run: Callable[[], object]) -> float | str:
    """Milliseconds, or why it does not run here."""
    ms = attempt(partial(time_ms, run))
    return ms.reason if isinstance(ms, Failure) else ms


def diffusers(sizes: Sizes, keep: Keep) -> Found:
    """The same step by diffusers' transformer, eager and compiled."""
    from diffusers import SanaTransformer2DModel

    config = asdict(sizes.transformer("sana-0.6b"))
    names = inspect.signature(SanaTransformer2DModel.__init__).parameters
    known = {name: value for name, value in config.items() if name in names}
    model = SanaTransformer2DModel(**known).to(DEVICE, torch.bfloat16).eval()
    side = sizes.sides[0] // 32
    latents = torch.randn(2, config["in_channels"], side, side).to(DEVICE, torch.bfloat16)
    text = torch.randn(2, 300, config["caption_channels"]).to(DEVICE, torch.bfloat16)
    timestep = torch.full((2,), 700.0, device=DEVICE)
    found: Found = {}
    ways: dict[str, Any] = {"eager": model}
    if not sizes.is_rehearsal:
        ways["compiled"] = torch.compile(model, mode="max-autotune")  # with graphs of its own
    for way, forward in ways.items():
        found[f"{way}_ms"] = time_launched_ms(partial(forward, latents, text, timestep))
        keep(found)
    return found


ITEMS: dict[str, Callable[[Sizes, Keep], Found]] = {
    "facts": facts,
    "kernels": kernels,
    "picture": picture,
    "step-bf16": step("sana-0.6b", "bf16"),
    "step-w8a8": step("sana-0.6b", "w8a8"),
    "decode": decode,
    "products": products,
    "blocks": blocks,
    "memory": memory,
    "step-1.6b": step("sana-1.6b", "w8a8"),
    "tests": tests,
    "tiles": tile_table,
    "diffusers": diffusers,
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

    if not rehearse:
        with torch.inference_mode():
            keep(ITEMS[name](Sizes(), keep))
        return
    os.environ["TRITON_INTERPRET"] = "1"
    from tests.rehearsal.device import Calls
    from tests.rehearsal.install import install

    torch.__future__.set_overwrite_module_params_on_conversion(True)
    install()
    with Calls(), torch.inference_mode():
        keep(ITEMS[name](TINY, keep))


if __name__ == "__main__":
    typer.run(main)
