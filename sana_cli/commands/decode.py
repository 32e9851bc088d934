"""`sana decode`: finish a picture from the latents that an interrupted run has kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sana_cli.commands.remember import remember
from sana_cli.config.choices import decode_mode, parse_bytes
from sana_cli.errors import ExitCode, SanaError, checkpoint_error, usage_error
from sana_cli.terminal.confirm import approval
from sana_cli.terminal.options import (
    DecodeOption,
    DecoderOption,
    DeviceOption,
    ForceOption,
    JsonOption,
    MaxMemoryOption,
    OfflineOption,
    QuietOption,
    TileOption,
    YesOption,
    refuse_empty,
)
from sana_cli.terminal.report import print_document, summary
from sana_cli.text import say

if TYPE_CHECKING:
    from sana_cli.checkpoints.checkpoint import Checkpoint
    from sana_cli.checkpoints.decoder_files import OtherDecoder
    from sana_cli.checkpoints.obtaining import Access
    from sana_cli.pipeline.latents_file import KeptLatents
    from sana_cli.request.output_paths import Target
    from sana_cli.terminal.progress_bars import ConsoleReporter


def decode(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="File of latents that `sana generate` kept.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A .png, .jpg or .webp file, a folder, or a pattern with {slug} and {seed} [default: as planned when it was drawn]",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|DIR",
            help="Where the model is, if it has moved [default: as the file says]",
            show_default=False,
        ),
    ] = None,
    decoder: DecoderOption = None,
    device: DeviceOption = None,
    how: DecodeOption = None,
    tile: TileOption = None,
    max_memory: MaxMemoryOption = None,
    offline: OfflineOption = None,
    yes: YesOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = None,
) -> None:
    """Finish a picture whose decoding failed or was interrupted."""
    refuse_empty(
        {
            "--output": output, "--model": model, "--decoder": decoder, "--max-memory": max_memory,
        }
    )  # fmt: skip
    mode = decode_mode(how, tile)
    from sana_cli.checkpoints.obtaining import Access
    from sana_cli.config.generation import GenerationOptions
    from sana_cli.config.user_settings import preferences
    from sana_cli.files import local_path
    from sana_cli.pipeline import latents_file
    from sana_cli.request.output_paths import Target
    from sana_cli.terminal.progress_bars import ConsoleReporter

    chosen = preferences()
    options = GenerationOptions(device=device, max_memory=max_memory).over(chosen.options)
    asked = parse_bytes(options.max_memory) if options.max_memory else None
    path = local_path(file)
    kept = latents_file.read(path)
    if how is None and tile is None:
        mode, tile = kept.how.decode, kept.how.tile
    place = Target.of(output)
    target = _picture(place, path, kept, overwrite=force)
    with ConsoleReporter(quiet=chosen.is_quiet(quiet)) as reporter:
        access = Access(
            offline=chosen.is_offline(offline),
            progress=reporter.download,
            approve=approval(reporter, yes=yes),
            named_by="" if model else str(path),
        )
        checkpoint = _open_model(model, kept, path, access, reporter)
        other = _open_decoder(decoder, kept, path, checkpoint, access, reporter)
        from sana_cli.pipeline.saving import finish
        from sana_cli.system.precision import pick_device

        with options.naming_source_of("device"):
            on = pick_device(options.device or "auto")
        picture, components = finish(
            path, kept, checkpoint, output=target, device=on, mode=mode, tile=tile, max_memory=asked,
            cap_source=options.sources.get("max_memory", ""), overwrite=force, reporter=reporter,
            decoder=other,
        )  # fmt: skip
    remember(picture)
    if json:
        print_document(
            checkpoint,
            [picture],
            device=components.device,
            precision=components.dtypes.vae,
            kernels=components.kernels,
        )
    else:
        say(*summary(picture, quiet=chosen.is_quiet(quiet)))


def _picture(place: "Target", latents: Path, kept: "KeptLatents", *, overwrite: bool) -> Path:
    """Choose the picture's file. SanaError (usage) for one that cannot be written, or is that of the latents."""
    from sana_cli.files import real_path
    from sana_cli.images.file_names import Named
    from sana_cli.pipeline.latents_file import picture_of
    from sana_cli.request.output_paths import picture_path

    target = picture_path(
        place,
        default=lambda: picture_of(latents),
        overwrite=overwrite,
        named=Named(kept.settings["prompt"], kept.settings["seed"]),
    )
    if real_path(target) == real_path(latents):
        raise usage_error(
            f"{target} holds the latents themselves",
            "give the picture another name: --output picture.png",
        )
    return target


def _open_model(
    model: str | None,
    kept: "KeptLatents",
    latents: Path,
    access: "Access",
    reporter: "ConsoleReporter",
) -> "Checkpoint":
    """Open the model that drew the latents, or the named one; a notice where its decoder makes another picture.

    SanaError where it cannot be opened, or its latents have other channels.
    """
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.commands.repeat import tell_another_model

    try:
        checkpoint = open_checkpoint(model or kept.how.model, access)
    except SanaError as error:
        if model is None:
            error.message = f"cannot open the model that drew this: {error.message}"
        if model is None and error.code != ExitCode.ENVIRONMENT:
            error.hint = "name the model: --model NAME or --model FOLDER"
        raise
    channels = kept.latents.shape[1]
    if checkpoint.transformer.in_channels != channels:
        raise checkpoint_error(
            f"latents of {channels} channels do not fit {checkpoint.name}, "
            f"whose have {checkpoint.transformer.in_channels}",
            hint="name the model that drew them: --model",
        )
    if checkpoint.name != kept.settings["model"]:
        reporter.notice(
            f"drawn by {kept.settings['model']}; another decoder makes another picture of it"
        )
    else:
        tell_another_model(kept.settings, checkpoint, str(latents), reporter)
    return checkpoint


def _open_decoder(
    name: str | None,
    kept: "KeptLatents",
    latents: Path,
    checkpoint: "Checkpoint",
    access: "Access",
    reporter: "ConsoleReporter",
) -> "OtherDecoder | None":
    """Open the named decoder, else that of the latents' settings; a notice where its content has changed since."""
    from sana_cli.checkpoints.obtain_decoder import obtain_decoder
    from sana_cli.commands.repeat import other_decoder

    decoder = obtain_decoder(name or kept.settings.get("decoder"), checkpoint, access)
    if name is None and (message := other_decoder(kept.settings, decoder, str(latents))):
        reporter.notice(message)
    return decoder
