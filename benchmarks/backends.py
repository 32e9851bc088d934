"""Time every kernel of every scheme over the shapes of Sana, and compare it with the exact
arithmetic.

`python -m benchmarks.backends` prints a table and writes `benchmarks/results/backends-cpu*.json`.
It includes plain matrix products in fp32 and bf16. oneDNN, MKL and ATen can be limited to fewer
instructions, as on an older machine: `ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
ATEN_CPU_CAPABILITY=avx2`, with `--label avx2-without-vnni`.
"""

from datetime import date
from typing import Annotated, Any

import torch
import typer

from benchmarks.record import record
from quant.backends.dispatch import all_kernels
from quant.backends.measurement import Probe, measure
from quant.backends.timing import best_seconds
from quant.config import QuantConfig
from quant.layers import QuantLinear
from quant.schemes import examples_for
from sana_cli.bench.machine import machine

# M rows (tokens), K input channels, N output channels

SHAPES = ((512, 1152, 1152), (512, 1152, 5760), (512, 2880, 1152))  # Sana-0.6B at 512 px, guided


def main(
    label: Annotated[str, typer.Option(help="Ends the name of the result's file.")] = "",
) -> None:
    """Measure every kernel that this machine has."""
    device = torch.device("cpu")
    rows: list[dict[str, Any]] = []
    for M, K, N in SHAPES:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(N, K, generator=generator)
        x = torch.randn(M, K, generator=generator)
        rows += [
            _row(M, K, N, "float", str(dtype)[6:], _float_seconds(x, weight, dtype))
            for dtype in (torch.float32, torch.bfloat16)
        ]
        for scheme in examples_for("linear"):
            config = QuantConfig.parse(scheme)
            assert config is not None
            layer = QuantLinear.from_weight(weight, None, config)
            kernels = [kernel for kernel in all_kernels() if kernel.supports(layer, device)]
            probe = Probe(rows=M)
            for result in measure(layer, device, kernels, allow_int8_activations=True, probe=probe):
                row = _row(M, K, N, scheme, f"{result.backend} {result.kernel}", result.seconds)
                rows.append(row | {"error": result.error, "note": result.note})
    for row in rows:
        speed = "-" if row["gops"] is None else f"{row['gops']:8.0f}"
        error = "" if row.get("error") is None else f"{row['error']:.1e}"
        print(
            f"{row['shape']:>16} {row['scheme']:>10} {row['kernel']:>28} {speed:>9} GOP/s  {error:>8}"
            f"  {row.get('note', '')}"
        )
    document = {
        "benchmark": "backends", "date": date.today().isoformat(), "machine": machine(), "rows": rows,
    }  # fmt: skip
    record(f"backends-cpu{label and '-' + label}", document)


def _float_seconds(x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> float:
    a, b = x.to(dtype), weight.to(dtype)
    return best_seconds([lambda: a @ b.T], x.device)[0]


def _row(M: int, K: int, N: int, scheme: str, kernel: str, seconds: float | None) -> dict[str, Any]:
    """`seconds` are those of all threads."""
    share = None if seconds is None else seconds / torch.get_num_threads()
    gops = None if share is None else round(2 * M * K * N / share / 1e9, 1)
    return {"shape": f"{M}x{K}x{N}", "scheme": scheme, "kernel": kernel, "gops": gops}


if __name__ == "__main__":
    typer.run(main)
