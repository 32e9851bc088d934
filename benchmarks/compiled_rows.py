"""Time our C code for passes over rows: a step and the decoders of a few-step model, by turns with torch's operations.

`python -m benchmarks.compiled_rows --work FOLDER` uses the random models that `benchmarks.sprint` makes in FOLDER: 512
pixels, w8a8 with w8a16 decoders, in one process, both ways by turns. `--avx2` holds torch and oneDNN to AVX2. Ratios are
taken within a round. The document goes to `benchmarks/results/compiled-rows*.json`.
"""

import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.record import record
from benchmarks.sprint import AVX2, prepare

_TEXT_TOKENS, _LATENTS = 60, (1, 32, 16, 16)


def parts(work: Path) -> dict[str, Callable[[], object]]:
    """The computations to time: a step, and decoding by DC-AE and DC-AE-Lite."""
    import torch

    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.loading.assign import DTYPES
    from sana_cli.loading.load import accelerate, load_decoder, load_transformer
    from sana_cli.system.precision import plan_dtypes

    _, _, _, quantized, quantized_lite = prepare(work, medium=False, vae="w8a16")
    cpu = torch.device("cpu")
    dtypes = plan_dtypes("auto", "bf16", cpu)
    generator = torch.Generator().manual_seed(0)
    checkpoint = open_checkpoint(str(quantized))
    transformer = load_transformer(checkpoint, dtype=dtypes.transformer, device=cpu)
    accelerate(transformer, cpu, "auto")
    kind = DTYPES[dtypes.transformer]
    width = transformer.config.caption_channels
    context = transformer.encode_text(
        torch.randn(1, _TEXT_TOKENS, width, generator=generator).to(kind)
    )
    latents = torch.randn(_LATENTS, generator=generator)
    found: dict[str, Callable[[], object]] = {
        "step": lambda: transformer.velocity(latents.to(kind), 0.7, [context], 0.45)
    }
    for name, folder in (("DC-AE", quantized), ("DC-AE-Lite", quantized_lite)):
        vae = load_decoder(open_checkpoint(str(folder)), dtype=dtypes.vae, device=cpu)
        accelerate(vae, cpu, "auto")
        z = vae.unscale(latents.to(DTYPES[dtypes.vae]))
        found[name] = lambda vae=vae, z=z: vae.decode(z)  # type: ignore[misc]
    return found


def main(
    work: Annotated[Path, typer.Option(help="Folder that keeps the models.")],
    rounds: Annotated[int, typer.Option(min=2)] = 12,
    avx2: Annotated[bool, typer.Option(help="Hold torch and oneDNN to AVX2.")] = False,
) -> None:
    """Time each part both ways, by turns."""
    os.environ |= AVX2 if avx2 else {}
    import torch

    from quant.native.rows import is_used, switched_off
    from sana_cli.bench.machine import machine

    rows: dict[str, Any] = {}
    with torch.inference_mode():
        for name, run in parts(work).items():
            assert is_used(), "there is no C compiler, or its code is slower here"
            seconds: dict[bool, list[float]] = {True: [], False: []}
            for i in range(rounds + 1):  # the first one warms up
                for ours in (True, False) if i % 2 else (False, True):
                    with nullcontext() if ours else switched_off():
                        started = time.perf_counter()
                        run()
                        seconds[ours].append(time.perf_counter() - started)
            compiled, plain = (seconds[ours][1:] for ours in (True, False))
            ratios = [ours / torchs for ours, torchs in zip(compiled, plain, strict=True)]
            rows[name] = {
                "seconds": round(statistics.median(compiled), 4),
                "torch_seconds": round(statistics.median(plain), 4),
                "ratio": round(statistics.median(ratios), 3),
            }
            print(name, rows[name], flush=True)
    record(
        "compiled-rows" + ("-avx2" if avx2 else ""),
        {
            "benchmark": "compiled_rows",
            "date": date.today().isoformat(),
            "machine": machine(),
            "rounds": rounds,
            "rows": rows,
            "command": "python -m benchmarks.compiled_rows --work FOLDER" + " --avx2" * avx2,
        },
    )


if __name__ == "__main__":
    typer.run(main)
