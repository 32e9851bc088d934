"""DC-AE's decoder in floats and with 8-bit convolutions, interleaved: what integers gain on this CPU.

`python -m benchmarks.decoder_schemes [--size 512] [--label …]` decodes random latents with random weights of the published
shape. oneDNN and ATen can be held to fewer instructions, as on an older machine: `ATEN_CPU_CAPABILITY=avx2` with
`ONEDNN_MAX_CPU_ISA=AVX2_VNNI` or `AVX2`, where bf16 takes minutes: `--dtypes float32`.
The document goes to `benchmarks/results/decoder-schemes*.json`.
"""

import json
import statistics
import time
from datetime import date
from typing import Annotated, Any

import torch
import typer

from benchmarks.decode import decoder
from benchmarks.record import record
from quant.convert import quantize_
from quant.layers import AcceleratedLayer
from sana_cli.bench.machine import machine
from sana_cli.config.recipes import component_recipe
from sana_cli.loading.load import TOKEN_CONVS, accelerate
from sana_cli.models.dc_ae import AutoencoderDC

SCHEMES = ("none", "w8a16", "w8a8")


def contender(scheme: str, dtype: torch.dtype) -> tuple[AutoencoderDC, dict[str, str]]:
    """The random decoder in a scheme and a type, and the kernels that it runs on."""
    vae = decoder("published shape")
    if scheme != "none":
        quantize_(vae, component_recipe("vae", scheme), token_convs=TOKEN_CONVS)
    vae = vae.to(dtype)
    for layer in vae.modules():
        if isinstance(layer, AcceleratedLayer) and not layer.scale.is_meta:
            layer.scale = layer.scale.float()
    return vae, accelerate(vae, torch.device("cpu"), "auto")


def main(
    size: Annotated[int, typer.Option(help="Pixels, square.")] = 512,
    dtypes: Annotated[
        str, typer.Option(help="Types to compare with the integers.")
    ] = "float32,bfloat16",
    rounds: int = 5,
    label: Annotated[str, typer.Option(help="Ends the name of the result's file.")] = "",
) -> None:
    """Time one picture in every scheme, interleaved."""
    contenders, kernels = {}, {}
    for dtype in dtypes.split(","):
        for scheme in SCHEMES:
            name = f"{scheme}, {dtype}"
            contenders[name], kernels[name] = contender(scheme, getattr(torch, dtype))
    latents = torch.randn(1, 32, size // 32, size // 32, generator=torch.manual_seed(1)) * 0.4
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for i in range(rounds + 1):  # the first round warms up
            for name, vae in contenders.items():
                started = time.perf_counter()
                vae.decode(latents.to(vae.decoder.norm_out.weight.dtype))
                if i:
                    seconds[name].append(time.perf_counter() - started)
    base = next(iter(seconds.values()))
    rows: dict[str, Any] = {
        name: {
            "seconds_median": round(statistics.median(found), 3),
            "times_as_fast_as_first": round(
                statistics.median(a / b for a, b in zip(base, found, strict=True)), 3
            ),
            "kernels": kernels[name],
        }
        for name, found in seconds.items()
    }
    document = {
        "benchmark": "decoder_schemes",
        "date": date.today().isoformat(),
        "machine": machine(),
        "size": size,
        "rows": rows,
    }
    record(f"decoder-schemes{label and '-' + label}", document)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    typer.run(main)
