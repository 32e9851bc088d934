"""Write a model folder of a published configuration with random weights, to keep it.

`python -m benchmarks.random_model sana-0.6b FOLDER`. `sana bench --random` does the same in a temporary folder.
"""

from pathlib import Path
from typing import Annotated

import typer

from sana_cli.bench.random_model import write_model


def main(
    alias: Annotated[str, typer.Argument(help="A known name, such as sana-0.6b.")],
    folder: Annotated[Path, typer.Argument(help="The folder to make; about 7 GB for sana-0.6b.")],
    seed: int = 0,
    medium: Annotated[bool, typer.Option(help="Narrower: for many runs.")] = False,
) -> None:
    """Write a model folder of a published configuration with random weights."""
    write_model(alias, folder, seed=seed, medium=medium)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e9:.2f} GB")


if __name__ == "__main__":
    typer.run(main)
