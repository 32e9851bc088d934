"""`sana generate`: a prompt becomes PNG files."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from sana_cli.config.choices import Decode, decode_mode, parse_bytes, parse_size
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import usage_error
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
    JsonOption,
    OfflineOption,
    QuietOption,
    SafetyOption,
    YesOption,
    contradiction,
    refuse_empty,
    with_generation_options,
)
from sana_cli.terminal.piped import piped_prompt
from sana_cli.terminal.report import print_document, summary
from sana_cli.text import say

if TYPE_CHECKING:
    from sana_cli.commands.generate_session import GenerateSession
    from sana_cli.commands.repeat import Picture
    from sana_cli.pipeline.results import SavedResult


@with_generation_options(first=("model", "output"))
def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="What to draw, in quotes; -: from standard input.",
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
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Width and height: 1024x768, or 512 for a square."),
    ] = None,
    *,
    typed: GenerationOptions,
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
        "--size": size, "--from": from_, "--prompts": prompts, "--preview-file": preview_file,
    })  # fmt: skip
    typed = _with_size(typed, size)
    if prompts and (prompt is not None or from_):
        raise contradiction("--prompts", "--from" if from_ else "PROMPT")
    if prompt == "-" or (prompt is None and not prompts and not from_):
        prompt = piped_prompt(asked=prompt == "-")
    if prompt is None and not prompts and not from_:
        raise usage_error(
            "there is no prompt",
            'say what to draw: sana generate "a cat"; or --prompts FILE, --from PICTURE.png',
        )
    from sana_cli.commands.generate_session import GenerateSession
    from sana_cli.commands.repeat import Picture, open_model
    from sana_cli.config.user_settings import preferences, unknown_variables

    typed = replace(typed, prompt=prompt)
    decode_mode(Decode(typed.decode) if typed.decode else None, typed.tile)  # before settings
    chosen = preferences()
    picture = Picture.of(from_) if from_ else None
    options = picture.changed_by(typed) if picture else typed
    options = options.over(chosen.options)
    if picture:  # it is one picture, whatever a setting says
        options = replace(options, count=typed.count)
    if options.max_memory:
        parse_bytes(options.max_memory)
    seeing = Seeing.plan(
        chosen, show=show, preview=preview, file=preview_file, every=preview_every,
        json=json, quiet=quiet, output=options.output, overwrite=force,
    )  # fmt: skip

    from sana_cli.pipeline.safety import SafetyCheck
    from sana_cli.terminal.progress_bars import ConsoleReporter

    checks = SafetyCheck.find(chosen.safety_model) if chosen.is_checked(safety) else None
    with ConsoleReporter(quiet=chosen.is_quiet(quiet)) as reporter:
        for problem in unknown_variables():
            reporter.notice(problem)
        checkpoint = open_model(
            options, picture, offline=chosen.is_offline(offline), yes=yes, reporter=reporter,
            planning=dry_run, default=chosen.options.model,
        )  # fmt: skip
        if picture:
            picture.tell_differences(typed, checkpoint, reporter)
        for message in seeing.in_vain:
            reporter.notice(message)
        live = LivePreview(seeing, reporter)
        session = GenerateSession(
            options=options, checkpoint=checkpoint, overwrite=force, grid=grid,
            reporter=reporter, safety=checks, watching=live.watching,
        )  # fmt: skip
        if dry_run and prompts:
            session.print_batch_forecast(prompts, json=json)
        elif dry_run:
            session.print_forecast(picture, json=json)
        else:
            _draw(session, prompts, picture, seeing=seeing, live=live, json=json)


def _with_size(typed: GenerationOptions, size: str | None) -> GenerationOptions:
    """`--size` is width and height in one word."""
    sides = typed.width is not None or typed.height is not None
    if size and sides:
        raise contradiction("--size", "--width or --height")
    if typed.aspect and (size or sides):
        raise contradiction("--aspect", "a size")
    if not size:
        return typed
    width, height = parse_size(size)
    return replace(typed, width=width, height=height)


def _draw(
    session: "GenerateSession",
    prompts: str | None,
    picture: "Picture | None",
    *,
    seeing: Seeing,
    live: LivePreview,
    json: bool,
) -> None:
    """Draw, and report every picture as soon as it is there, whatever happens to the next one."""
    from sana_cli.terminal.batch_report import BatchReport

    reporter, model = session.reporter, session.checkpoint
    drawn: list[SavedResult] = []
    sheet = None
    report = BatchReport(reporter, model=model.name, json=json, quiet=reporter.quiet)
    try:
        with report.counting():
            pictures = session.batch(prompts, report) if prompts else session.single(picture)
            for finished in pictures:
                drawn.append(finished)
                with reporter.paused():
                    live.clear()
                    if prompts:
                        report.drawn(finished, session.components)
                    elif not json:
                        say(*summary(finished, quiet=reporter.quiet))
                    if session.grid is None:
                        seeing.show(finished.path)
        if session.grid is not None and (sheet := session.grid.save(drawn, model.name)):
            with reporter.paused():
                if prompts:
                    report.sheet(sheet)
                elif not json:
                    say(str(sheet))
                seeing.show(sheet)
        if failure := report.failure or session.refusal:
            raise failure
    finally:
        if json and drawn and not prompts:
            components = session.components
            with reporter.paused():
                print_document(
                    model,
                    drawn,
                    device=components.device if components else None,
                    precision=str(components.dtypes) if components else None,
                    kernels=components.kernels if components else {},
                    sheet=sheet,
                )
