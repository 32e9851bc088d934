"""Time a guided denoising step of a full-size Linear-DiT with random weights, in several schemes,
interleaved.

`python -m benchmarks.denoise_step [--variant sana-0.6b] [--size 512] [--schemes
fp32,w8a8,w4a16-g64]`. Every round times each scheme once, and ratios are taken within a round,
since machines are noisy. The document goes to `benchmarks/results/`.
"""

import json
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any

import torch
import typer
from torch import nn

from benchmarks.record import record
from quant.backends.dispatch import Backend, accelerate_
from quant.convert import quantize_
from quant.layers import AcceleratedLayer
from quant.primitives import sqnr_db
from sana_cli.bench.machine import machine
from sana_cli.config.networks import TransformerConfig
from sana_cli.config.recipes import component_recipe
from sana_cli.config.variants import VARIANTS
from sana_cli.loading.load import TOKEN_CONVS
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext

FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
TEXT_TOKENS = 40


@contextmanager
def no_initialisation() -> Iterator[None]:
    """Layers are built with memory as it comes; `fill` writes them once."""
    saved = nn.Linear.reset_parameters, nn.Conv2d.reset_parameters
    nn.Linear.reset_parameters = nn.Conv2d.reset_parameters = lambda self: None  # type: ignore[method-assign, assignment]
    yield
    nn.Linear.reset_parameters, nn.Conv2d.reset_parameters = saved  # type: ignore[method-assign]


def random_transformer(config: TransformerConfig, seed: int = 0) -> SanaTransformer2D:
    """fp32, with values that neither vanish nor blow up on their way through the blocks."""
    generator = torch.Generator().manual_seed(seed)
    with no_initialisation():
        model = SanaTransformer2D(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "table" not in name:
            scale = 0.7 / math.sqrt(math.prod(parameter.shape[1:]))
            parameter.normal_(std=scale, generator=generator)
        else:
            centre = 1.0 if name.endswith("weight") else 0.0
            parameter.normal_(mean=centre, std=0.1, generator=generator)
    return model


def in_scheme(
    scheme: str, config: TransformerConfig, backend: Backend
) -> tuple[SanaTransformer2D, dict[str, str]]:
    """The random model in a scheme, and the kernels that it runs on."""
    model = random_transformer(config)
    if scheme in FLOATS:
        return model.to(FLOATS[scheme]), {}
    quantize_(model, component_recipe("transformer", scheme), token_convs=TOKEN_CONVS)
    return model, accelerate_(
        model, torch.device("cpu"), backend=backend, allow_int8_activations=True
    )


def step_inputs(model: SanaTransformer2D, size: int) -> tuple[Any, ...]:
    """Make the inputs of a guided step: the same latents twice, an empty and a real text."""
    generator = torch.Generator().manual_seed(1)
    config, dtype = model.config, model.proj_out.weight.dtype
    latents = torch.randn(1, config.in_channels, size // 32, size // 32, generator=generator)
    text = torch.randn(1, TEXT_TOKENS, config.caption_channels, generator=generator)
    contexts: list[TextContext] = [
        model.encode_text(embeds.to(dtype)) for embeds in (text[:, :1], text)
    ]
    timestep = torch.full((2,), 700.0)
    return latents.expand(2, -1, -1, -1).to(dtype), timestep, contexts


def layer_sqnr(config: TransformerConfig, scheme: str, size: int) -> dict[str, float]:
    """dB of every quantized layer's output, on the activations that it meets in the float model."""
    model = random_transformer(config)
    quantized = random_transformer(config)
    quantize_(quantized, component_recipe("transformer", scheme), token_convs=TOKEN_CONVS)
    layers = {p: m for p, m in quantized.named_modules() if isinstance(m, AcceleratedLayer)}
    result: dict[str, float] = {}

    def compare(path: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            result[path] = sqnr_db(output, layers[path](inputs[0]))

        return hook

    for path in layers:
        model.get_submodule(path).register_forward_hook(compare(path))
    with torch.inference_mode():
        model(*step_inputs(model, size))
    return result


def main(
    variant: Annotated[str, typer.Option(help="A known name.")] = "sana-0.6b",
    size: Annotated[int, typer.Option(help="Pixels, square.")] = 512,
    schemes: str = "fp32,w8a8,w4a16-g64",
    rounds: int = 5,
    backend: Annotated[str, typer.Option(help="As of `sana generate`.")] = "auto",
    sqnr: Annotated[bool, typer.Option(help="Also the SQNR of every layer.")] = True,
    label: Annotated[str, typer.Option(help="Ends the name of the result's file.")] = "",
) -> None:
    """Time one guided step in several schemes, interleaved."""
    config = TransformerConfig(**asdict(VARIANTS[variant].structure))
    names = schemes.split(",")
    models, kernels = {}, {}
    for name in names:
        models[name], kernels[name] = in_scheme(name, config, backend)  # type: ignore[arg-type]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with torch.inference_mode():
        inputs = {name: step_inputs(model, size) for name, model in models.items()}
        for i in range(rounds + 1):  # the first round warms up
            for name, model in models.items():
                started = time.perf_counter()
                model(*inputs[name])
                if i:
                    seconds[name].append(time.perf_counter() - started)
    models.clear()
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        ratios = [a / b for a, b in zip(seconds[names[0]], seconds[name], strict=True)]
        rows[name] = {
            "seconds_median": round(statistics.median(seconds[name]), 4),
            f"times_as_fast_as_{names[0]}": round(statistics.median(ratios), 3),
            "ratios": [round(r, 3) for r in ratios],
            "kernels": kernels[name],
        }
        if sqnr and name not in FLOATS:
            values = layer_sqnr(config, name, size)
            rows[name] |= {
                "layers": len(values),
                "sqnr_db_worst": round(min(values.values()), 2),
                "sqnr_db_worst_layer": min(values, key=lambda path: values[path]),
                "sqnr_db_median": round(statistics.median(values.values()), 2),
            }
    document = {
        "benchmark": "denoise_step",
        "date": date.today().isoformat(),
        "machine": machine(),
        "variant": f"{variant}, random weights",
        "size": size,
        "rows": rows,
    }
    record(f"denoise-step-{size}{label and '-' + label}", document)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    typer.run(main)
