"""`sana generate`: a prompt becomes PNG files."""

from typing import TYPE_CHECKING, Annotated

import typer

from sana_cli.commands.report import print_document, summary
from sana_cli.errors import ExitCode, SanaError
from sana_cli.options import (
    Backend,
    DecodeOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    OfflineOption,
    Precision,
    QuietOption,
    Scheduler,
    TileOption,
    decode_mode,
    parse_size,
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
            help="A .png file, or a folder [default: your setting, else here]",
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
        str | None,
        typer.Option(metavar="TEXT", help="What to keep out of the picture.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same picture [default: random]")
    ] = None,
    count: Annotated[int, typer.Option(help="Pictures to draw, with seeds S, S+1, ...")] = 1,
    scheduler: Annotated[
        Scheduler | None, typer.Option(help="Sampler [default: the model's]", show_default=False)
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Compute precision [default: auto, which follows how the model was trained]",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = None,
    backend: Annotated[
        Backend | None,
        typer.Option(
            help="Kernels for a quantized model [default: auto, the fastest that is right]",
            show_default=False,
        ),
    ] = None,
    enhance: Annotated[
        bool | None,
        typer.Option(
            "--enhance/--no-enhance",
            help="Put the published instruction before the prompt [default: as published]",
            show_default=False,
        ),
    ] = None,
    bins: Annotated[
        bool | None,
        typer.Option(
            "--bins/--exact",
            help="Any size: draw at the nearest one the model was trained on, resize "
            "[default: exact]",
            show_default=False,
        ),
    ] = None,
    decode: DecodeOption = None,
    tile: TileOption = None,
    offline: OfflineOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = None,
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
    from sana_cli.user_config import preferences
    from sana_cli.wishes import Wishes

    typed = Wishes(
        model=model, output=output, width=width, height=height, aspect=aspect, bins=bins,
        steps=steps, guidance=guidance, negative=negative, seed=seed, scheduler=scheduler,
        precision=precision, device=device, backend=backend, enhance=enhance, decode=decode,
        tile=tile,
    )  # fmt: skip
    decode_mode(decode, tile)  # what was typed must fit together before settings come in
    chosen = preferences()
    wishes = typed.over(Wishes.of_preferences(chosen))
    offline = bool(chosen.offline if offline is None else offline)
    quiet = bool(chosen.quiet if quiet is None else quiet)

    from sana_cli.checkpoint import open_checkpoint
    from sana_cli.console import ConsoleReporter
    from sana_cli.request import check

    with ConsoleReporter(quiet=quiet) as reporter:
        with wishes.naming_source_of("model"):
            checkpoint = open_checkpoint(
                wishes.model_or_builtin, offline=offline, progress=reporter.download
            )
        if wishes.model is None:
            reporter.notice(
                f"drawn by the built-in demonstration model: {checkpoint.own.description}; "
                "`sana info builtin` lists its words, --model sana-0.6b is a real one"
            )
        request = wishes.request(prompt, checkpoint, count=count, overwrite=force)
        with wishes.naming_source_of("output"):
            check(request, checkpoint)  # mistakes are told before the seconds that torch takes

        from sana_cli.precision import pick_device
        from sana_cli.run import Run

        with wishes.naming_source_of("device"):
            on = pick_device(wishes.device or "auto")
        with wishes.naming_source_of("precision"):
            run = Run(checkpoint, request, device=on, reporter=reporter)
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
