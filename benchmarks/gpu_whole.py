"""Items of `gpu_suite.py` that run whole stages: a picture, a decoder, memory against its forecast, and where a step's time goes."""

# B batch, C latent channels, h w latent grid

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks import engine_gpu
from benchmarks.decode import decoder
from benchmarks.denoise_step import random_transformer, step_inputs
from benchmarks.gpu_timing import time_ms
from quant.convert import quantize_
from sana_cli.accelerate.cuda.decoder import fuse_decoder
from sana_cli.accelerate.cuda.engine import Engine
from sana_cli.accelerate.cuda.trial import relative_error
from sana_cli.config.networks import TransformerConfig
from sana_cli.config.recipes import component_recipe
from sana_cli.loading.load import TOKEN_CONVS, accelerate
from sana_cli.memory.decoder_sizes import decode_activations
from sana_cli.memory.forecast import _BLOCK_MAPS, _FEED_FORWARD_MAPS
from sana_cli.memory.plans import WHOLE, DecodePlan, exact_tiles
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.sana_transformer import SanaTransformer2D
from sana_cli.pipeline.decode import decode as decode_latents
from sana_cli.pipeline.denoise import denoise
from sana_cli.schedulers import make_scheduler

DEVICE = torch.device("cuda")
_STEPS = 20
_LISTED = 15  # kernels of a profile
Found = dict[str, Any]
Keep = Callable[[Found], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Work of one item: a network's size and the sides of pictures."""

    config: TransformerConfig
    decoder: str  # as `benchmarks.decode.decoder` takes it
    sides: tuple[int, ...]
    tile: int = 512
    margin: float = 1.15  # of a forecast that a cap allows, for the allocator's own rounding


def transformer(config: TransformerConfig, scheme: str, side: int) -> tuple[SanaTransformer2D, Any]:
    """A random transformer on the device, with its kernels, and the inputs of a guided step."""
    model = random_transformer(config).to(torch.bfloat16)
    inputs = engine_gpu.on_device(*step_inputs(model, side))
    model.to(DEVICE)
    if scheme != "bf16":
        quantize_(model, component_recipe("transformer", scheme), token_convs=TOKEN_CONVS)
    accelerate(model, DEVICE, "auto")
    return model, inputs


def on_device(name: str, scheme: str = "bf16") -> AutoencoderDC:
    """A decoder on the device, in bf16 or quantized, without kernels of ours."""
    vae = decoder(name)
    vae.decoder.to(DEVICE, torch.bfloat16)
    if scheme != "bf16":
        quantize_(vae, component_recipe("vae", scheme), token_convs=TOKEN_CONVS)
    return vae


def latents_of(vae: AutoencoderDC, side: int) -> Tensor:
    """Random latents (1, C, h, w) of a picture of `side` pixels."""
    size = side // vae.config.downscale
    return torch.randn(1, vae.config.latent_channels, size, size).to(DEVICE, torch.bfloat16)


def picture(stage: Stage, scheme: Literal["bf16", "w8a8"], keep: Keep) -> Found:
    """Draw a whole picture of random weights twice: guided steps and the fused decoder, seconds of each; the first compiles."""
    side = stage.sides[0]
    model, (latents, contexts) = transformer(stage.config, scheme, side)
    vae = on_device(stage.decoder, scheme)
    notices: list[str] = []
    accelerate(vae, DEVICE, "auto", notice=notices.append)

    def velocity(x: Tensor, timestep: float) -> Tensor:
        both = model.velocity(x.expand(2, -1, -1, -1).to(torch.bfloat16), timestep, contexts)
        without, with_text = both.float().chunk(2)
        return without + 4.5 * (with_text - without)

    noise = torch.randn(latents[:1].shape).to(DEVICE)
    found: Found = {"scheme": scheme, "side": side, "num_inference_steps": _STEPS}
    for turn in ("first", "second"):
        sampler = make_scheduler("flow-dpm", _STEPS, shift=3.0, draw_noise=lambda: noise)
        started = time.perf_counter()
        finished = denoise(velocity, noise, sampler)
        torch.cuda.synchronize()
        denoised = time.perf_counter()
        pixels = vae.decode(finished.to(torch.bfloat16))
        torch.cuda.synchronize()
        found[f"{turn}_denoise_ms"] = 1e3 * (denoised - started)
        found[f"{turn}_decode_ms"] = 1e3 * (time.perf_counter() - denoised)
        keep(found)
    assert model.engine is not None
    found["engine"] = model.engine.summary
    broken = "" if bool(pixels.isfinite().all()) else "values are not finite"
    wrong = "; ".join([*_fallbacks(notices), *([broken] if broken else [])])
    return found | ({"wrong": wrong} if wrong else {})


def decode(stage: Stage, keep: Keep) -> Found:
    """Decode by plain PyTorch, by the fused decoder and by that of 8 bits: time, peak, error, forecast."""
    side = stage.sides[0]
    notices: list[str] = []
    found: Found = {}
    expected: Tensor | None = None
    for way in ("plain", "fused", "w8a8"):
        vae = on_device(stage.decoder, "w8a8" if way == "w8a8" else "bf16")
        z = torch.zeros_like(latents_of(vae, side)) + 0.5
        if way == "fused":
            fuse_decoder(vae, notice=notices.append)
        elif way == "w8a8":
            accelerate(vae, DEVICE, "auto", notice=notices.append)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        pixels = vae.decode(z).float()
        found[f"{way}_peak_bytes"] = torch.cuda.max_memory_allocated() - before
        found[f"{way}_ms"] = time_ms(lambda vae=vae, z=z: vae.decode(z))  # type: ignore[misc]
        expected = pixels if expected is None else expected
        found[f"{way}_error"] = relative_error(pixels, expected)
        keep(found)
        del vae
    found["predicted_peak_bytes"] = decode_activations(vae_config(stage), WHOLE, side, side, 2)
    wrong = "; ".join(_fallbacks(notices))
    if not found["fused_error"] < 0.1:
        wrong = f"the fused decoder is off by {found['fused_error']:.2g}"
    return found | ({"wrong": wrong} if wrong else {})


def _fallbacks(notices: list[str]) -> list[str]:
    """Keep the ones that say what runs in place of something else; others say what is measured."""
    return [line for line in notices if "instead" in line]


def vae_config(stage: Stage) -> Any:
    """The decoder's structure."""
    return decoder(stage.decoder).config


def memory(stage: Stage, keep: Keep) -> Found:
    """Compare peaks of a step and of decoding, whole and in tiles, with the forecast; then decode under a cap of the forecast."""
    found: Found = {"steps": [], "decodes": [], "capped": []}
    for side in stage.sides:
        found["steps"].append(_step_peak(stage, side))
        keep(found)
    vae = on_device(stage.decoder)
    fuse_decoder(vae, notice=lambda line: None)
    for side in stage.sides:
        for plan in (WHOLE, exact_tiles(stage.tile, side, side)):
            found["decodes"].append(_decode_peak(vae, side, plan))
            keep(found)
    for row in list(found["decodes"]):
        found["capped"].append(_capped(vae, row, stage))
        keep(found)
    off = [row for row in found["capped"] if row["result"] != "fits"]
    wrong = "; ".join(f"{row['side']} {row['plan']}: {row['result']}" for row in off)
    return found | ({"wrong": wrong} if wrong else {})


def _step_peak(stage: Stage, side: int) -> Found:
    model, (latents, contexts) = transformer(stage.config, "bf16", side)
    D, hidden = stage.config.inner_dim, stage.config.ff_dim
    tokens = latents[:, 0].numel()
    row: Found = {
        "side": side,
        "predicted_peak_bytes": int(2 * tokens * (_BLOCK_MAPS * D + _FEED_FORWARD_MAPS * hidden)),
    }
    for way in ("first", "replay"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        model.velocity(latents, 700.0, contexts)
        row[f"{way}_peak_bytes"] = torch.cuda.max_memory_allocated() - before
        row[f"{way}_kept_bytes"] = torch.cuda.memory_allocated() - before
    return row


def _decode_peak(vae: AutoencoderDC, side: int, plan: DecodePlan) -> Found:
    z = latents_of(vae, side)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    vae_plan = replace(plan)
    decode_latents(vae, z, plan=vae_plan)
    peak = torch.cuda.max_memory_allocated() - before
    predicted = decode_activations(vae.config, plan, side, side, 2)
    return {
        "side": side, "plan": str(plan), "mode": plan.mode, "peak_bytes": peak,
        "predicted_peak_bytes": predicted, "peak_over_predicted": peak / predicted,
    }  # fmt: skip


def _capped(vae: AutoencoderDC, row: Found, stage: Stage) -> Found:
    """Decode with no more memory than the forecast asks for."""
    side = row["side"]
    plan = WHOLE if row["mode"] == "whole" else exact_tiles(stage.tile, side, side)
    z = latents_of(vae, side)
    torch.cuda.empty_cache()
    cap = torch.cuda.memory_allocated() + stage.margin * row["predicted_peak_bytes"]
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, cap / torch.cuda.get_device_properties(0).total_memory)
    )
    try:
        decode_latents(vae, z, plan=plan)
        result = "fits"
    except torch.OutOfMemoryError:
        result = "out of memory under a cap of the forecast"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return {"side": side, "plan": row["plan"], "cap_bytes": int(cap), "result": result}


def profile(stage: Stage, scheme: str, keep: Keep) -> Found:
    """Microseconds of each kernel of a guided step without its graph, and launches; the most expensive first."""
    model, (latents, contexts) = transformer(stage.config, scheme, stage.sides[0])
    engine = Engine(model, notice=print, graphs=False)
    for _ in range(2):
        engine.velocity(latents, 700.0, contexts, None)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.profiler.ProfilerActivity.CUDA in torch.profiler.supported_activities():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        engine.velocity(latents, 700.0, contexts, None)
        torch.cuda.synchronize()
    rows = [
        {"kernel": event.key[:80], "launches": event.count, "us": event.self_device_time_total}
        for event in profiler.key_averages()
        if not str(event.device_type).endswith("CPU")
    ]
    rows.sort(key=lambda row: -row["us"])
    total = sum(row["us"] for row in rows)
    found: Found = {
        "scheme": scheme, "launches": sum(row["launches"] for row in rows), "device_us": total,
        "kernels": [row | {"share": row["us"] / total if total else 0.0} for row in rows[:_LISTED]],
    }  # fmt: skip
    keep(found)
    return found
