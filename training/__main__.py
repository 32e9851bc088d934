"""Make the built-in model, one step a sub-command; `all` runs them in order.

A run folder holds everything that a run makes; an interrupted step resumes from its last
checkpoint.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from sana_cli.errors import SanaError
from sana_cli.terminal.logs import mute_libraries
from training.presets import PRESETS, PresetName

app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None, add_completion=False)

RunFolder = Annotated[
    Path, typer.Option(help="Where checkpoints, grids and results of this run go.")
]
PresetOption = Annotated[PresetName, typer.Option("--preset", help="Budgets and batch sizes.")]
Minutes = Annotated[
    float, typer.Option(help="Time budget of a training step; 0 takes the preset's.", min=0)
]
Steps = Annotated[int, typer.Option(help="Step budget of a training step; 0 means none.", min=0)]
Workers = Annotated[int, typer.Option(help="Processes; 0 means one a core, one in all with a GPU.")]
Model = Annotated[
    str,
    typer.Option(
        help="Checkpoint folder to measure, or sprint.pt of a run; empty takes the run's own export."
    ),
]
Scale = Annotated[
    float,
    typer.Option(
        help="How many prompts, as a factor of the full set of about 450.", min=0.01, max=100
    ),
]
Target = Annotated[Path, typer.Option(help="Folder that receives the checkpoint.")]
OptionalTarget = Annotated[Path | None, typer.Option(help="Folder that receives the checkpoint.")]

BUILTIN = Path(__file__).resolve().parent.parent / "sana_cli" / "builtin"


@app.callback()
def quiet() -> None:
    """No word of libraries about what they do not find on this machine."""
    mute_libraries()


@app.command()
def data(run_folder: RunFolder) -> None:
    """Fetch and render the drawings, and show a sheet of scenes with their captions."""
    import random

    from training.captions import choose_caption
    from training.data import whole_pictures
    from training.runs import save_grid
    from training.sprites import load_sprites

    rng = random.Random(0)
    scenes, images = whole_pictures(load_sprites(), rng, 32)
    save_grid(run_folder / "data.png", images, columns=8)
    for scene in scenes:
        print(choose_caption(scene, rng))


@app.command("dc-ae")
def dc_ae(
    run_folder: RunFolder,
    preset: PresetOption = PresetName.CPU,
    minutes: Minutes = 0,
    steps: Steps = 0,
    workers: Workers = 0,
) -> None:
    """Train the autoencoder."""
    _autoencoder(
        run_folder, "all", preset, minutes or PRESETS[preset].dc_ae_minutes, steps, workers
    )


@app.command()
def decoder(
    run_folder: RunFolder,
    preset: PresetOption = PresetName.CPU,
    minutes: Minutes = 0,
    steps: Steps = 0,
    workers: Workers = 0,
) -> None:
    """Train the decoder further with the encoder frozen; the transformer's latents stay valid."""
    _autoencoder(
        run_folder, "decoder", preset, minutes or PRESETS[preset].decoder_minutes, steps, workers
    )


def _autoencoder(
    run_folder: Path,
    part: Literal["all", "decoder"],
    preset: PresetName,
    minutes: float,
    steps: int,
    workers: int,
) -> None:
    from training.dc_ae import train_autoencoder
    from training.runs import Budget
    from training.sprites import load_sprites
    from training.workers import default_worker_count, run_workers

    budget, count = Budget(minutes=minutes, steps=steps), workers or default_worker_count()
    run_workers(
        count, train_autoencoder, run_folder, load_sprites(), budget, PRESETS[preset].dc_ae, part
    )


@app.command()
def transformer(
    run_folder: RunFolder,
    preset: PresetOption = PresetName.CPU,
    minutes: Minutes = 0,
    steps: Steps = 0,
    workers: Workers = 0,
) -> None:
    """Train the text encoder and the transformer on the autoencoder's latents."""
    from training.runs import Budget
    from training.sprites import load_sprites
    from training.transformer import train_transformer
    from training.workers import default_worker_count, run_workers

    budget = Budget(minutes=minutes or PRESETS[preset].transformer_minutes, steps=steps)
    sprites, settings = load_sprites(), PRESETS[preset].transformer
    run_workers(
        workers or default_worker_count(), train_transformer, run_folder, sprites, budget, settings
    )


@app.command()
def evaluate(
    run_folder: RunFolder,
    model: Model = "",
    scale: Scale = 1.0,
    steps: Steps = 0,
    guidance: float = 0.0,
    teacher: Annotated[
        str, typer.Option(help="Model whose pictures of the same noise are compared, by PSNR.")
    ] = "",
) -> None:
    """Draw held-out prompts and score them; writes evaluation/ in the run folder."""
    from training.evaluate import evaluate as run_evaluation
    from training.evaluate import print_scores
    from training.sprites import load_sprites

    folder = run_folder / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)  # before the minutes that follow
    document = run_evaluation(
        model or str(run_folder / "export"),
        load_sprites(),
        folder,
        scale=scale,
        steps=steps,
        guidance=guidance,
        teacher=teacher,
    )
    print_scores(document)


@app.command()
def steps(
    run_folder: RunFolder,
    model: Model = "",
    scale: Scale = 0.3,
    results: Path = Path("benchmarks/results"),
) -> None:
    """Measure quality against steps for Flow-DPM-Solver and Flow-Euler; writes a table and a plot."""
    from training.sprites import load_sprites
    from training.steps import measure_steps

    measure_steps(model or str(run_folder / "export"), load_sprites(), results, scale=scale)


@app.command("noise-levels")
def noise_levels(
    run_folder: RunFolder,
    model: Model = "",
    scale: Scale = 0.25,
    results: Path = Path("benchmarks/results"),
) -> None:
    """Measure what the noise levels of Flow-Euler's few steps do to quality; writes a table."""
    from training.noise_levels import measure_noise_levels
    from training.sprites import load_sprites

    measure_noise_levels(model or str(run_folder / "export"), load_sprites(), results, scale=scale)


@app.command("distil-decoder")
def distil_decoder(
    run_folder: RunFolder,
    model: Annotated[str, typer.Option(help="Model whose decoder is the teacher.")] = "builtin",
    minutes: Annotated[float, typer.Option(help="Time budget.", min=0.1)] = 60,
    workers: Workers = 1,
    target: OptionalTarget = None,
) -> None:
    """Distil a decoder of convolutions alone from a trained one, for `--decoder`; about an hour on two cores."""
    from training.distil_decoder import train_tiny_decoder
    from training.export_distilled import export_tiny_decoder
    from training.presets import DistilDecoderSettings
    from training.runs import Budget
    from training.sprites import load_sprites
    from training.workers import run_workers

    run_workers(
        workers, train_tiny_decoder, run_folder, model, load_sprites(), Budget(minutes=minutes),
        DistilDecoderSettings(),
    )  # fmt: skip
    export_tiny_decoder(run_folder, target or run_folder / "tiny")


@app.command("evaluate-decoder")
def evaluate_decoder(
    run_folder: RunFolder,
    decoder: Annotated[str, typer.Option(help="Decoder, as --decoder of `sana generate`.")],
    model: Annotated[str, typer.Option(help="Model whose latents it decodes.")] = "builtin",
    scale: Scale = 0.25,
) -> None:
    """Compare a decoder with the model's own, by PSNR and by the checker; writes evaluation/ in the run folder."""
    from training.evaluate_decoder import evaluate_decoder as run_evaluation
    from training.sprites import load_sprites

    command = (
        f"python -m training evaluate-decoder --run-folder RUN --decoder {Path(decoder).name} "
        f"--model {model} --scale {scale:g}"
    )
    document = run_evaluation(
        model, decoder, load_sprites(), run_folder / "evaluation", scale=scale, command=command
    )
    print(json.dumps(document, indent=1))


@app.command("distil-steps")
def distil_steps(
    run_folder: RunFolder,
    model: Annotated[str, typer.Option(help="Model that is the teacher.")] = "builtin",
    minutes: Annotated[float, typer.Option(help="Time budget.", min=0.1)] = 60,
    student: Annotated[
        str,
        typer.Option(help="Few-step model to start from; all of the budget is then continuous."),
    ] = "",
    target: OptionalTarget = None,
) -> None:
    """Distil the few-step model from the built-in one; about an hour on two cores."""
    from dataclasses import replace

    from training.distil_steps import train_few_steps
    from training.export_distilled import export_sprint
    from training.presets import DistilStepsSettings
    from training.runs import Budget

    settings = DistilStepsSettings()
    if student:
        settings = replace(settings, continuous_from=0.0)
    train_few_steps(run_folder, model, Budget(minutes=minutes), settings, student_model=student)
    export_sprint(run_folder, target or run_folder / "sprint")


@app.command()
def control(
    run_folder: RunFolder,
    minutes: Annotated[float, typer.Option(help="Time budget.", min=0.1)] = 60,
    target: OptionalTarget = None,
) -> None:
    """Train a ControlNet for the built-in model that follows line drawings; about an hour on one core."""
    from training.control import train_control
    from training.export_distilled import export_control
    from training.presets import ControlSettings
    from training.runs import Budget
    from training.sprites import load_sprites

    train_control(run_folder, load_sprites(), Budget(minutes=minutes), ControlSettings())
    export_control(run_folder, target or run_folder / "control")


@app.command("evaluate-control")
def evaluate_control(
    model: Annotated[str, typer.Option(help="Model with a ControlNet.")] = "builtin-control",
    results: Path = Path("benchmarks/results"),
    count: Annotated[int, typer.Option(help="Drawings.", min=1)] = 60,
    steps: Annotated[int, typer.Option(help="Steps; 0 takes the model's.", min=0)] = 0,
) -> None:
    """Draw held-out drawings with a ControlNet, and measure how many keep position and outline."""
    from training.evaluate_control import evaluate_control as run_evaluation
    from training.sprites import load_sprites

    document = run_evaluation(model, load_sprites(), results, count=count, steps=steps)
    print(json.dumps(document))


@app.command()
def export(run_folder: RunFolder, target: OptionalTarget = None) -> None:
    """Write the checkpoint folder with the model card; by default into the run folder."""
    from training.export import export as run_export

    command = "python -m training all --preset cpu --run-folder runs/builtin"
    destination = run_folder / "export" if target is None else target
    print(json.dumps(run_export(run_folder, destination, command=command), indent=1))


@app.command("all")
def run_all(
    run_folder: RunFolder,
    preset: PresetOption = PresetName.CPU,
    minutes: Minutes = 0,
    workers: Workers = 0,
    scale: Scale = 1.0,
    target: Target = BUILTIN,
) -> None:
    """Every step; `--minutes` is then the budget of all training, shared 4 : 5 : 1 by its three stages."""
    data(run_folder)
    dc_ae(run_folder, preset, minutes * 0.4, 0, workers)
    transformer(run_folder, preset, minutes * 0.5, 0, workers)
    decoder(run_folder, preset, minutes * 0.1, 0, workers)
    export(run_folder)
    evaluate(run_folder, scale=scale)
    export(run_folder, target)  # again: the card now holds the measured quality


def main() -> None:
    """Errors that a person can mend are one line, as those of `sana`."""
    try:
        app()
    except SanaError as error:
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from error
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"error: {error.name} is not installed\nhint: pip install -e '.[training]'"
        ) from error
    except FileNotFoundError as error:  # of a step that was not run yet
        raise SystemExit(
            f"error: no such file: {error.filename}\nhint: the steps before this one make it"
        ) from error


if __name__ == "__main__":
    main()
