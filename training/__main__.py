"""`python -m training`: the recipe's steps, one sub-command each."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None, add_completion=False)

RunFolder = Annotated[Path, typer.Option(help="Where checkpoints, grids and results of this run go.")]
Minutes = Annotated[float, typer.Option(help="Time budget of this step; 0 takes the preset's.")]
Steps = Annotated[int, typer.Option(help="Step budget; 0 means none.")]
Workers = Annotated[int, typer.Option(help="Processes; 0 means one a core, one in all with a GPU.")]


@app.command("dc-ae")
def dc_ae(run_folder: RunFolder, minutes: Minutes = 0, steps: Steps = 0, workers: Workers = 0) -> None:
    """Train the autoencoder."""
    from training.dc_ae import AutoencoderSettings, train_autoencoder
    from training.runs import Budget
    from training.sprites import load_sprites
    from training.workers import default_worker_count, run_workers

    budget = Budget(minutes=minutes or 50, steps=steps)
    run_workers(workers or default_worker_count(), train_autoencoder, run_folder, load_sprites(), budget, AutoencoderSettings())


@app.command("transformer")
def transformer() -> None:
    """Later."""


if __name__ == "__main__":
    app()
