"""Measure what the CPU engine saves compared with the plain path, in CPU seconds of one thread, in
turns.

`python -m benchmarks.cpu_engine [--rounds 5]` times a guided pass of a few full-width blocks at 512
pixels, in fp32 and w8a8: as the modules are written, and with projections joined and products
packed. CPU seconds of one thread are almost the same on a busy machine. The document goes to
`benchmarks/results/cpu-engine.json`.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from typing import Annotated, Any

import torch
import typer

from benchmarks.denoise_step import random_transformer, step_inputs
from benchmarks.record import record
from quant.backends.dispatch import accelerate_
from quant.convert import quantize_
from sana_cli.accelerate.cpu_fused_qkv import fuse_projections_
from sana_cli.accelerate.cpu_packed_linear import pack_linears_
from sana_cli.bench.machine import machine
from sana_cli.config.networks import TransformerConfig
from sana_cli.config.recipes import component_recipe
from sana_cli.config.variants import VARIANTS
from sana_cli.loading.load import TOKEN_CONVS
from sana_cli.models.sana_transformer import SanaTransformer2D

_BLOCKS, _SIZE = 4, 512


def build(scheme: str, *, engine: bool) -> SanaTransformer2D:
    """The same random blocks, with or without the engine; quantized layers have their kernels in both."""
    config = TransformerConfig(**asdict(VARIANTS["sana-0.6b"].structure))
    model = random_transformer(replace(config, num_layers=_BLOCKS))
    if scheme != "fp32":
        quantize_(model, component_recipe("transformer", scheme), token_convs=TOKEN_CONVS)
    if engine:
        fuse_projections_(model)
    accelerate_(model, torch.device("cpu"), backend="native")
    if engine:
        pack_linears_(model)
    return model


def cpu_seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def main(rounds: Annotated[int, typer.Option(help="Each times every path once.")] = 5) -> None:
    """Time, print and keep."""
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    with torch.inference_mode():
        for scheme in ("fp32", "w8a8"):
            models = {name: build(scheme, engine=name == "engine") for name in ("plain", "engine")}
            inputs = {name: step_inputs(model, _SIZE) for name, model in models.items()}
            outputs = {name: models[name](*inputs[name]) for name in models}
            seconds: dict[str, list[float]] = {name: [] for name in models}
            for _ in range(rounds):
                for name, model in models.items():
                    seconds[name].append(cpu_seconds(partial(model, *inputs[name])))
            ratios = [a / b for a, b in zip(seconds["plain"], seconds["engine"], strict=True)]
            rows[scheme] = {
                "cpu_seconds": {n: round(statistics.median(v), 4) for n, v in seconds.items()},
                "times_as_fast": round(statistics.median(ratios), 3),
                "ratios": [round(ratio, 3) for ratio in ratios],
                "largest_difference": float((outputs["plain"] - outputs["engine"]).abs().max()),
                "spread_of_output": float(outputs["plain"].std()),
            }
    document = {
        "benchmark": "cpu_engine",
        "date": date.today().isoformat(),
        "machine": machine(),
        "what": f"{_BLOCKS} of 28 blocks of sana-0.6b, random weights, {_SIZE} px, guided, one thread",
        "rows": rows,
    }
    record("cpu-engine", document)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    typer.run(main)
