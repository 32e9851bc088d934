"""`python -m training`: the recipe's steps, one sub-command each."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None, add_completion=False)

RunFolder = Annotated[Path, typer.Option(help="Where checkpoints, grids and results of this run go.")]
Minutes = Annotated[float, typer.Option(help="Time budget of this step; 0 takes the preset's.")]
Steps = Annotated[int, typer.Option(help="Step budget; 0 means none.")]
Threads = Annotated[int, typer.Option(help="CPU threads for torch; 0 leaves its default.")]


@app.command("dc-ae")
def dc_ae(run_folder: RunFolder, minutes: Minutes = 0, steps: Steps = 0, threads: Threads = 0) -> None:
    """Train the autoencoder."""
    import torch

    from training.dc_ae import AutoencoderSettings, train_autoencoder
    from training.runs import Budget
    from training.sprites import load_sprites

    if threads:
        torch.set_num_threads(threads)
    budget = Budget(minutes=minutes or 50, steps=steps)
    train_autoencoder(run_folder, load_sprites(), budget=budget, settings=AutoencoderSettings())


@app.command("transformer")
def transformer() -> None:
    """Later."""


if __name__ == "__main__":
    app()
