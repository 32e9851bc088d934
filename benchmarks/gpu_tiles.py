"""Keep the tiles that the GPU suite found the fastest: `python -m benchmarks.gpu_tiles benchmarks/results/gpu-DEVICE-DATE.json`.

They go into the file that ships, `quant/kernels/measured_tiles.json`, which the kernels read. A tile replaces the table's only where
it is faster by more than measurements vary.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from quant.files import new_file
from quant.kernels.measured_tiles import FILE, Measured, read, size_of

_FASTER = 0.97  # of the table's time, at most


def merged(known: Measured, document: dict[str, Any]) -> Measured:
    """Add what a document of the suite says; other capabilities and kernels stay."""
    items = document["items"]
    capability = items["facts"]["found"]["capability"]
    rows = items["tiles"]["found"]["tiles"]
    found: Measured = json.loads(json.dumps(known))
    for row in rows:
        sizes = found.setdefault(capability, {}).setdefault(row["kernel"], {})
        size = size_of(*map(int, row["shape"].split("x")))
        sizes.pop(size, None)
        if row["best_tile"] and row["best_ms"] < _FASTER * row["table_ms"]:
            sizes[size] = row["best_tile"]
    return found


def main(
    result: Annotated[Path, typer.Argument(help="A document of the GPU suite.")],
    target: Annotated[Path, typer.Option(help="The file of tiles.")] = FILE,
) -> None:
    """Add the tiles that were measured on a device to those that ship."""
    document = json.loads(result.read_text(encoding="utf-8"))
    with new_file(target, overwrite=True) as file:
        file.write((json.dumps(merged(read(target), document), indent=1) + "\n").encode())
    print(target)


if __name__ == "__main__":
    typer.run(main)
