"""Time the encoding of a text: the first one of a model, and one after the kept instruction.

`python -m benchmarks.text FOLDER [--rounds 5]`, with a full-size model folder as
`benchmarks/full_size.py` writes them. The document goes to `benchmarks/results/text.json`.
"""

import json
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.record import record
from sana_cli.bench.machine import machine
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.published import complex_human_instruction
from sana_cli.loading.load import accelerate, load_prompt_encoder
from sana_cli.models.text_encoder import PromptEncoder
from sana_cli.system.precision import plan_dtypes

FIRST, NEXT = "a red fox under a tree", "a small blue house by the sea at night"


def main(
    folder: Annotated[Path, typer.Argument(help="A model folder.")],
    rounds: int = 5,
) -> None:
    """Time both texts of a guided picture, in turns."""
    device, checkpoint = torch.device("cpu"), open_checkpoint(str(folder), offline=True)
    dtype = plan_dtypes("auto", checkpoint.trained_precision, device).text_encoder
    loaded = load_prompt_encoder(checkpoint, dtype=dtype, device=device)
    kernels = accelerate(loaded.model, device, "auto")
    seconds: dict[str, list[float]] = {"first": [], "next": []}
    for _ in range(rounds + 1):  # the first round warms up
        encoder = PromptEncoder(loaded.tokenizer, loaded.model)
        for which, prompt in (("first", FIRST), ("next", NEXT)):
            started = time.perf_counter()
            encoder.encode(prompt, enhance=True)
            encoder.encode_negative("", beside_enhanced=True)
            seconds[which].append(time.perf_counter() - started)
    ratios = [a / b for a, b in zip(*(found[1:] for found in seconds.values()), strict=True)]
    document: dict[str, Any] = {
        "benchmark": "text",
        "date": date.today().isoformat(),
        "machine": machine(),
        "model": checkpoint.name,
        "computes_in": dtype,
        "kernels": kernels,
        "instruction_tokens": len(loaded.tokenizer.encode(complex_human_instruction())),
        "seconds": {
            which: round(statistics.median(found[1:]), 3) for which, found in seconds.items()
        },
        "next_times_as_fast": round(statistics.median(ratios), 2),
    }
    record("text", document)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    typer.run(main)
