"""Compare `torch.compile` on a guided CPU step with the present code, interleaved.

`python -m benchmarks.compiled [--size 512]`. Products in the libraries' own weight order are opaque
to the compiler, so its contenders multiply by `F.linear` and `torch._int_mm`, and everything around
them is fused. Blocks are compiled one by one.
"""

import json
import statistics
import time
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.denoise_step import random_transformer, step_inputs
from benchmarks.record import record
from quant.convert import quantize_
from quant.layers import AcceleratedLayer, QuantLinear
from sana_cli.accelerate.cpu_fused_qkv import fuse_projections_
from sana_cli.bench.machine import machine
from sana_cli.config.networks import TransformerConfig
from sana_cli.config.recipes import component_recipe
from sana_cli.config.variants import VARIANTS
from sana_cli.loading.load import TOKEN_CONVS, accelerate
from sana_cli.models.sana_transformer import SanaTransformer2D


def int_mm(x: Tensor, packed: None, layer: QuantLinear) -> Tensor:
    """The scheme's arithmetic in plain operations, which a compiler may join."""
    x_MK = x.flatten(0, -2)
    scale_M = torch.maximum(x_MK.amax(dim=1), -x_MK.amin(dim=1)) / 127
    divisor_M = torch.where(scale_M > 0, scale_M, 1.0)
    q_MK = (x_MK / divisor_M[:, None]).round().clamp(-127, 127).to(torch.int8)
    out = torch._int_mm(q_MK, layer.qweight.T).float() * layer.scale * scale_M[:, None]
    return (out if layer.bias is None else out + layer.bias).unflatten(0, x.shape[:-1])


def contender(config: TransformerConfig, scheme: str, *, compiled: bool) -> SanaTransformer2D:
    """The random model in a scheme, with our kernels or compiled."""
    model = random_transformer(config)
    if scheme != "fp32":
        quantize_(model, component_recipe("transformer", scheme), token_convs=TOKEN_CONVS)
    if not compiled:
        accelerate(model, torch.device("cpu"), "auto")
        return model
    fuse_projections_(model)
    for layer in model.modules():
        if isinstance(layer, AcceleratedLayer):
            layer.attach(int_mm, None, free=False)
    for block in model.transformer_blocks:
        block.compile(dynamic=False)
    return model


def main(
    variant: Annotated[str, typer.Option(help="A known name.")] = "sana-0.6b",
    size: Annotated[int, typer.Option(help="Pixels, square.")] = 512,
    rounds: int = 7,
) -> None:
    """Time one guided step, compiled and as it is, interleaved."""
    torch._dynamo.config.recompile_limit = 64  # a block gets its number, and is compiled for it
    config = TransformerConfig(**asdict(VARIANTS[variant].structure))
    rows: dict[str, dict[str, Any]] = {}
    for scheme in ("fp32", "w8a8"):
        models = {name: contender(config, scheme, compiled=name == "compiled")
                  for name in ("as it is", "compiled")}  # fmt: skip
        inputs = step_inputs(random_transformer(config), size)
        seconds: dict[str, list[float]] = {name: [] for name in models}
        outputs = {}
        with torch.inference_mode():
            for _ in range(rounds + 1):
                for name, model in models.items():
                    started = time.perf_counter()
                    outputs[name] = model(*inputs)
                    seconds[name].append(time.perf_counter() - started)
        first = {name: found.pop(0) for name, found in seconds.items()}
        ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
        difference = (outputs["compiled"] - outputs["as it is"]).norm()
        rows[scheme] = {
            "seconds_as_it_is": round(statistics.median(seconds["as it is"]), 4),
            "seconds_compiled": round(statistics.median(seconds["compiled"]), 4),
            "compiled_times_as_fast": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
            "compiling_seconds": round(first["compiled"], 1),
            "relative_difference": float(f"{difference / outputs['as it is'].norm():.2g}"),
        }
    document = {
        "benchmark": "compiled",
        "date": date.today().isoformat(),
        "machine": machine(),
        "variant": f"{variant}, random weights",
        "size": size,
        "rows": rows,
    }
    record(f"compiled-{size}", document)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    typer.run(main)
