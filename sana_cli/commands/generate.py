"""`sana generate`: a prompt becomes PNG files."""

from typing import TYPE_CHECKING, Annotated

import typer

from sana_cli.config.choices import (
    Backend,
    PlanName,
    Precision,
    Scheduler,
    decode_mode,
    parse_bytes,
    parse_seed,
    parse_size,
)
from sana_cli.errors import ExitCode, SanaError
from sana_cli.terminal.completion import ModelOption
from sana_cli.terminal.display import (
    GridOption,
    LivePreview,
    PreviewEveryOption,
    PreviewFileOption,
    PreviewOption,
    Seeing,
    ShowOption,
)
from sana_cli.terminal.options import (
    DecodeOption,
    DeviceOption,
    JsonOption,
    LoraOption,
    MaxMemoryOption,
    OfflineOption,
    QuietOption,
    SafetyOption,
    TileOption,
    YesOption,
    contradiction,
    refuse_empty,
)
from sana_cli.terminal.piped import piped_prompt
from sana_cli.terminal.report import print_document, summary
from sana_cli.text import say

if TYPE_CHECKING:
    from sana_cli.pipeline.finishing import Picture as Finished


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="What to draw, in quotes; -: from standard input.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A .png file, a folder (made if written with a slash: new/), or a pattern: "
            "{index}-{slug}-{seed}.png, {id} with --prompts [default: your setting, else here]",
            show_default=False,
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PICTURE.png",
            help="Repeat a picture; options that are given change it.",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Many pictures: a file or folder of prompts, one a line, as JSON with settings, or as a table; "
            "-: standard input. Pictures that are there already are not drawn again.",
            show_default=False,
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", "-W", help="Pixels; a multiple of 32.")
    ] = None,
    height: Annotated[
        int | None, typer.Option("--height", "-H", help="Pixels; a multiple of 32.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Width and height: 1024x768, or 512 for a square."),
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
    guidance_interval: Annotated[
        str | None,
        typer.Option(
            metavar="LOW-HIGH",
            help="Guide only between these noise levels, 0.2-0.9: other steps take half the work [default: 0-1]",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        float | None,
        typer.Option(
            metavar="THRESHOLD",
            help="Reuse earlier results while the first block changes by less than THRESHOLD (try 0.1): "
            "faster, picture differs slightly [default: 0, off]",
            show_default=False,
        ),
    ] = None,
    negative: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What to keep out of the picture.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N|random",
            parser=parse_seed,
            help="Same seed, same picture; random: a new one, also with --from [default: random]",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Picture to start from instead of noise [default size: the picture's]",
            show_default=False,
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="How much to redraw: near 0 keeps the picture, 1 ignores it [default: 0.6; Sprint: 0.5; with --mask: 1]",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Redraw only the white parts of this picture; the rest stays identical.",
            show_default=False,
        ),
    ] = None,
    lora: LoraOption = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            help="Pictures to draw, with seeds S, S+1, ... [default: your setting, else 1]",
            show_default=False,
        ),
    ] = None,
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
    max_memory: MaxMemoryOption = None,
    plan: Annotated[
        PlanName | None,
        typer.Option(
            help="What stays in memory [default: auto, the fastest plan that fits]",
            show_default=False,
        ),
    ] = None,
    prompt_cache: Annotated[
        bool | None,
        typer.Option(
            "--prompt-cache/--no-prompt-cache",
            help="Keep encoded prompts on disk, so that a repeated one needs no text encoder [default: prompt-cache]",
            show_default=False,
        ),
    ] = None,
    safety: SafetyOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Draw nothing; show the memory and time it would take."),
    ] = False,
    grid: GridOption = False,
    show: ShowOption = None,
    preview: PreviewOption = None,
    preview_file: PreviewFileOption = None,
    preview_every: PreviewEveryOption = None,
    offline: OfflineOption = None,
    yes: YesOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = None,
) -> None:
    """Draw pictures of PROMPT or of a file of prompts, or repeat one."""
    refuse_empty({
        "--size": size, "--aspect": aspect, "--output": output, "--model": model,
        "--from": from_, "--prompts": prompts, "--max-memory": max_memory,
        "--guidance-interval": guidance_interval,
        "--preview-file": preview_file, "--image": image, "--mask": mask,
        "--lora": "" if lora and "" in lora else None,
    })  # fmt: skip
    if size and (width is not None or height is not None):
        raise contradiction("--size", "--width or --height")
    if aspect and (size or width is not None or height is not None):
        raise contradiction("--aspect", "a size")
    if size:
        width, height = parse_size(size)
    if prompts and (prompt is not None or from_):
        raise contradiction("--prompts", "--from" if from_ else "PROMPT")
    if prompt == "-" or (prompt is None and not prompts and not from_):
        prompt = piped_prompt(asked=prompt == "-")
    if prompt is None and not prompts and not from_:
        raise SanaError(
            "there is no prompt",
            hint='say what to draw: sana generate "a cat"; or --prompts FILE, --from PICTURE.png',
            code=ExitCode.USAGE,
        )
    from sana_cli.commands.generate_session import Order, Picture, open_model
    from sana_cli.config.user_settings import preferences, unknown_variables
    from sana_cli.request.options import Wishes
    from sana_cli.terminal.batch_report import BatchReport

    typed = Wishes(
        prompt=prompt, model=model, output=output, width=width, height=height, aspect=aspect, bins=bins,
        steps=steps, guidance=guidance, guidance_interval=guidance_interval, cache=cache, negative=negative, seed=seed, scheduler=scheduler,
        image=image, strength=strength, mask=mask, loras=tuple(lora) if lora else None,
        precision=precision, device=device, backend=backend, enhance=enhance, decode=decode,
        tile=tile, max_memory=max_memory, plan=plan, prompt_cache=prompt_cache,
    )  # fmt: skip
    decode_mode(decode, tile)  # what was typed must fit together before settings come in
    chosen = preferences()
    picture = Picture.of(from_) if from_ else None
    wishes = picture.changed_by(typed) if picture else typed
    wishes = wishes.over(Wishes.of_preferences(chosen))
    if wishes.max_memory:
        parse_bytes(wishes.max_memory)
    if count is None:
        count = 1 if picture or chosen.count is None else chosen.count
    offline = chosen.is_offline(offline)
    seeing = Seeing.plan(
        chosen, show=show, preview=preview, file=preview_file, every=preview_every,
        json=json, quiet=quiet, output=wishes.output, overwrite=force,
    )  # fmt: skip
    quiet = chosen.is_quiet(quiet)

    from sana_cli.pipeline.safety import SafetyCheck
    from sana_cli.terminal.progress_bars import ConsoleReporter

    checks = SafetyCheck.find(chosen.safety_model) if chosen.is_checked(safety) else None
    with ConsoleReporter(quiet=quiet) as reporter:
        for problem in unknown_variables():
            reporter.notice(problem)
        checkpoint = open_model(
            wishes, picture, offline=offline, yes=yes, reporter=reporter, planning=dry_run
        )
        if picture:
            picture.tell_differences(typed, checkpoint, reporter)
        for message in seeing.in_vain:
            reporter.notice(message)
        live = LivePreview(seeing, reporter)
        order = Order(
            wishes=wishes, checkpoint=checkpoint, count=count, overwrite=force, grid=grid,
            reporter=reporter, safety=checks, watching=live.watching,
        )  # fmt: skip
        if dry_run and prompts:
            order.print_batch_forecast(prompts, json=json)
            return
        if dry_run:
            order.print_forecast(picture, json=json)
            return
        told: list[Finished] = []
        sheet = None
        report = BatchReport(reporter, model=checkpoint.name, json=json, quiet=quiet)
        try:
            with report.counting():
                pictures = order.batch(prompts, report) if prompts else order.single(picture)
                for finished in pictures:
                    told.append(finished)
                    with reporter.paused():
                        live.clear()
                        if prompts:
                            report.drawn(finished, order.run)
                        elif not json:
                            say(*summary(finished, quiet=quiet))
                        if not grid:
                            seeing.show(finished.path)
            sheet = order.save_sheet(told)
            if sheet:
                with reporter.paused():
                    if prompts:
                        report.sheet(sheet)
                    elif not json:
                        say(str(sheet))
                    seeing.show(sheet)
            if failure := report.failure or order.refusal:
                raise failure
        finally:  # pictures that are done are told, whatever happens to the next one
            if json and told and not prompts:
                run = order.run
                with reporter.paused():
                    print_document(
                        checkpoint,
                        told,
                        device=run.device if run else None,
                        precision=str(run.dtypes) if run else None,
                        kernels=run.kernels if run else {},
                        sheet=sheet,
                    )
