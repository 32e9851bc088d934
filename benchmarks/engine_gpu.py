"""Time a guided denoising step on this CUDA device: the plain model, the engine, and the engine as
a CUDA graph.

`python -m benchmarks.engine_gpu [--variant sana-0.6b] [--sizes 512,1024] [--schemes bf16,w8a8]`, on
random weights. Every round times each way once, and ratios are taken within a round. The document
goes to `benchmarks/results/`.
"""

import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.denoise_step import random_transformer, step_inputs
from benchmarks.kernels_gpu import machine
from benchmarks.record import record
from quant.convert import quantize_
from sana_cli.accelerate.cuda.engine import Engine
from sana_cli.config.networks import TransformerConfig
from sana_cli.config.recipes import component_recipe
from sana_cli.config.variants import VARIANTS
from sana_cli.loading.load import TOKEN_CONVS, accelerate
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext

DEVICE = torch.device("cuda")
TIMESTEP = 700.0

Row = dict[str, Any]


def measure(
    scheme: str, config: TransformerConfig, sizes: Sequence[int], rounds: int
) -> Iterator[Row]:
    """Milliseconds of each way at each size."""
    model = random_transformer(config).to(torch.bfloat16)
    inputs = [on_device(*step_inputs(model, size)) for size in sizes]
    model.to(DEVICE)
    if scheme != "bf16":
        quantize_(model, component_recipe("transformer", scheme), token_convs=TOKEN_CONVS)
    accelerate(model, DEVICE, "auto")
    for size, (latents, contexts) in zip(sizes, inputs, strict=True):
        times = time_ways(model, latents, contexts, rounds)
        assert model.engine is not None
        row: Row = {"scheme": scheme, "size": size, "engine": model.engine.summary}
        for way, ms in times.items():
            ratios = [a / b for a, b in zip(times["plain"], ms, strict=True)]
            row |= {f"{way}_ms": statistics.median(ms), f"{way}_ratio": statistics.median(ratios)}
        yield row


def on_device(
    latents: Tensor, timestep: Tensor, contexts: list[TextContext]
) -> tuple[Tensor, list[TextContext]]:
    for context in contexts:
        for tensors in (context.keys, context.values, context.constants):
            tensors[:] = [tensor.to(DEVICE) for tensor in tensors]
    return latents.to(DEVICE), contexts


def time_ways(
    model: SanaTransformer2D, latents: Tensor, contexts: list[TextContext], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of every round by the plain model, the engine, and the engine's graph."""
    launched = Engine(model, notice=print, graphs=False)

    def plain() -> Tensor:
        return model(latents, torch.full((len(latents),), TIMESTEP, device=DEVICE), contexts)

    ways: dict[str, Callable[[], Tensor]] = {
        "plain": plain,
        "engine": lambda: launched.velocity(latents, TIMESTEP, contexts, None),
        "graph": lambda: model.velocity(latents, TIMESTEP, contexts),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(rounds + 3):  # the first rounds compile, compare, capture and warm up
        for way, velocity in ways.items():
            torch.cuda.synchronize()
            started = time.perf_counter()
            velocity()
            torch.cuda.synchronize()
            if i >= 3:
                times[way].append(1e3 * (time.perf_counter() - started))
    return times


def main(
    variant: Annotated[str, typer.Option(help="A known name.")] = "sana-0.6b",
    sizes: Annotated[str, typer.Option(help="Pixels, square.")] = "512,1024",
    schemes: str = "bf16,w8a8",
    rounds: int = 20,
) -> None:
    """Time one guided step by the plain model, the engine and its graph."""
    if not torch.cuda.is_available():
        sys.stderr.write("error: no CUDA device\n")
        raise typer.Exit(3)
    config = TransformerConfig(**asdict(VARIANTS[variant].structure))
    document: Row = {"benchmark": "engine_gpu", "date": date.today().isoformat()} | machine()
    document |= {"variant": f"{variant}, random weights", "rows": []}
    with torch.inference_mode():
        for scheme in schemes.split(","):
            for row in measure(scheme, config, [int(s) for s in sizes.split(",")], rounds):
                document["rows"].append(row)
                print(
                    f"{scheme:<8}{row['size']:>6} px  plain {row['plain_ms']:.2f} ms, engine "
                    f"{row['engine_ms']:.2f} ms, graph {row['graph_ms']:.2f} ms "
                    f"({row['graph_ratio']:.2f} x)  {row['engine']}",
                    flush=True,
                )
    device = re.sub(r"\W+", "-", document["device"]).strip("-").lower()
    record(f"engine-gpu-{device}-{document['date']}", document)
    print(json.dumps(document))


if __name__ == "__main__":
    typer.run(main)
