"""Measure each layer's SQNR, in w8a8 or another scheme of 8-bit inputs, in a full-size transformer with random weights, on its real
inputs.

`python -m benchmarks.layer_sqnr [--variant sana-0.6b]` replays four timesteps of a guided picture,
smooths and quantizes every layer as `sana quantize` does, and writes the SQNR on rows that did not
choose the factors to `benchmarks/results/layer-sqnr.json`, or `layer-sqnr-SCHEME.json` for `--scheme`.
"""

import json
import statistics
from dataclasses import asdict
from datetime import date
from typing import Annotated

import torch
import typer

from benchmarks.denoise_step import random_transformer, step_inputs
from benchmarks.record import record
from calibration.linears import Methods, calibrate_linears
from calibration.observe import Call
from quant.convert import resolve
from sana_cli.bench.machine import machine
from sana_cli.config.networks import TransformerConfig
from sana_cli.config.recipes import component_recipe
from sana_cli.config.variants import VARIANTS

TIMESTEPS = (950.0, 700.0, 400.0, 100.0)


def main(
    variant: Annotated[str, typer.Option(help="A known name.")] = "sana-0.6b",
    size: Annotated[int, typer.Option(help="Pixels, square.")] = 512,
    scheme: str = "w8a8",
) -> None:
    """SQNR of every layer, smoothed."""
    model = random_transformer(TransformerConfig(**asdict(VARIANTS[variant].structure)))
    layers = resolve(model, component_recipe("transformer", scheme))
    configs = {layer.path: layer.config for layer in layers if layer.config}
    latents, timestep, contexts = step_inputs(model, size)

    def call(bucket: int, t: float) -> Call:
        at = torch.full_like(timestep, t)
        return Call(run=lambda: model(latents, at, contexts), bucket=bucket)

    calls = [call(bucket, t) for bucket, t in enumerate(TIMESTEPS)]
    with torch.inference_mode():
        found = calibrate_linears(model, configs, calls, methods=Methods(gptq_bits=()), seed=0)
    worst = sorted(found.sqnr.items(), key=lambda item: item[1])[:5]
    document = {
        "benchmark": "layer_sqnr",
        "date": date.today().isoformat(),
        "machine": machine(),
        "variant": f"{variant}, random weights",
        "scheme": f"{scheme}, smoothed where it helps",
        "layers": len(found.sqnr),
        "smoothed": sum(layer.smooth is not None for layer in found.layers.values()),
        "sqnr_db_worst": dict(worst),
        "sqnr_db_median": round(statistics.median(found.sqnr.values()), 2),
    }
    record("layer-sqnr" if scheme == "w8a8" else f"layer-sqnr-{scheme}", document)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    typer.run(main)
