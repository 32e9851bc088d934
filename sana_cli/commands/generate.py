"""`sana generate`: a prompt becomes PNG files."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from sana_cli.commands.report import print_document, summary
from sana_cli.errors import ExitCode, SanaError
from sana_cli.options import (
    Backend,
    DecodeOption,
    Device,
    JsonOption,
    ModelOption,
    OfflineOption,
    Precision,
    QuietOption,
    Scheduler,
    TileOption,
    decode_mode,
    parse_size,
    size_of_aspect,
)

if TYPE_CHECKING:
    from sana_cli.finishing import Picture


def generate(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What to draw.", show_default=False)
    ],
    model: ModelOption = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A .png file, or a folder [default: here]",
            show_default=False,
        ),
    ] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; a multiple of 32.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; a multiple of 32.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Width and height in one: 1024x768.")
    ] = None,
    aspect: Annotated[
        str | None,
        typer.Option(metavar="W:H", help="Shape only, at the model's native area: 16:9."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps [default: the model's]")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="How strictly to follow the prompt; 1: off [default: the model's]"),
    ] = None,
    negative: Annotated[
        str, typer.Option(metavar="TEXT", help="What to keep out of the picture.")
    ] = "",
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same picture [default: random]")
    ] = None,
    count: Annotated[int, typer.Option(help="Pictures to draw, with seeds S, S+1, ...")] = 1,
    scheduler: Annotated[
        Scheduler | None, typer.Option(help="Sampler [default: the model's]", show_default=False)
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Compute precision; auto follows how the model was trained.")
    ] = Precision.AUTO,
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.AUTO,
    backend: Annotated[
        Backend,
        typer.Option(help="Kernels for a quantized model; auto takes the fastest that is right."),
    ] = Backend.AUTO,
    enhance: Annotated[
        bool | None,
        typer.Option(
            "--enhance/--no-enhance",
            help="Put the published instruction before the prompt [default: as published]",
            show_default=False,
        ),
    ] = None,
    bins: Annotated[
        bool,
        typer.Option(
            "--bins/--exact",
            help="Any size: draw at the nearest one the model was trained on, resize.",
        ),
    ] = False,
    decode: DecodeOption = None,
    tile: TileOption = None,
    offline: OfflineOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw pictures of PROMPT."""
    for option, value in (
        ("--size", size), ("--aspect", aspect), ("--output", output), ("--model", model),
    ):  # fmt: skip
        if value == "":  # mostly an unset variable of a script
            raise SanaError(f"{option} is empty", hint=f"leave {option} away", code=ExitCode.USAGE)
    if size and (width is not None or height is not None):
        raise _contradiction("--size", "--width or --height")
    if aspect and (size or width is not None or height is not None):
        raise _contradiction("--aspect", "a size")
    if size:
        width, height = parse_size(size)
    mode = decode_mode(decode, tile)

    from sana_cli.checkpoint import local_path, open_checkpoint
    from sana_cli.console import ConsoleReporter
    from sana_cli.request import Request, check
    from sana_cli.user_config import BUILTIN, default_model

    with ConsoleReporter(quiet=quiet) as reporter:
        name, source = (model, "") if model else default_model()
        try:
            checkpoint = open_checkpoint(name, offline=offline, progress=reporter.download)
        except SanaError as error:
            if source:  # nobody typed this name just now
                error.message += f" (named by {source})"
            raise
        if model is None and name == BUILTIN:
            reporter.notice(
                f"drawn by the built-in demonstration model: {checkpoint.own.description}; "
                "`sana info builtin` lists its words, --model sana-0.6b is a real one"
            )
        if aspect:
            width, height = size_of_aspect(aspect, checkpoint.defaults.native_size)
        request = Request(
            prompt=prompt,
            negative_prompt=negative,
            width=width,
            height=height,
            bins=bins,
            steps=steps,
            guidance_scale=guidance,
            scheduler=scheduler.value if scheduler else None,
            enhance=enhance,
            seed=seed,
            count=count,
            output=local_path(output) if output else None,
            output_is_folder=(output or "").endswith(("/", os.sep)),
            overwrite=force,
            precision=precision.value,
            backend=backend.value,
            decode=mode,
            tile=tile,
        )
        check(request, checkpoint)  # mistakes are told before the seconds that torch takes

        from sana_cli.precision import pick_device
        from sana_cli.run import Run

        run = Run(checkpoint, request, device=pick_device(device), reporter=reporter)
        pictures: list[Picture] = []
        try:
            for picture in run.pictures():
                pictures.append(picture)
                if not json:
                    typer.echo(summary(picture, quiet=quiet))
        finally:  # pictures that are done are told, whatever happens to the next one
            if json and pictures:
                print_document(
                    checkpoint,
                    pictures,
                    device=run.device,
                    precision=str(run.dtypes),
                    kernels=run.kernels,
                )


def _contradiction(one: str, other: str) -> SanaError:
    return SanaError(
        f"give {one} or {other}, not both", hint=f"leave {one} away", code=ExitCode.USAGE
    )
