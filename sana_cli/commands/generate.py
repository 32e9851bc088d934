"""`sana generate`: a prompt becomes PNG files."""

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from sana_cli.commands.draw_here import draw_here
from sana_cli.commands.generate_call import Call, with_settings
from sana_cli.config.choices import Decode, decode_mode, parse_size
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import contradiction, usage_error
from sana_cli.terminal.display import Seeing
from sana_cli.terminal.display_options import (
    GridOption,
    PreviewEveryOption,
    PreviewFileOption,
    PreviewOption,
    ShowOption,
)
from sana_cli.terminal.options import (
    JsonOption,
    LocalOption,
    ManifestOption,
    OfflineOption,
    QuietOption,
    RayOption,
    SafetyOption,
    ServerOption,
    WorkersOption,
    YesOption,
    refuse_empty,
    with_generation_options,
)
from sana_cli.terminal.piped import piped_prompt

if TYPE_CHECKING:
    from sana_cli.commands.repeat import Picture
    from sana_cli.request.sweep import Axis


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
            metavar="PICTURE",
            help="Repeat a picture: a file, or a number of `sana history`; other options change it.",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Draw a file or folder of prompts: one per line, JSON with settings, or a table; "
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
    axes: "list[Axis]",
    safety: SafetyOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Draw nothing; show the memory and time it would take."),
    ] = False,
    grid: GridOption = False,
    best_of: Annotated[
        int | None,
        typer.Option(
            "--best-of",
            metavar="N",
            min=2,
            max=1000,
            help="Draw N seeds, and keep the picture with the best --score.",
            show_default=False,
        ),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            "--score",
            metavar="COMMAND",
            help="Program that scores pictures for --best-of; it reads and answers lines of JSON.",
            show_default=False,
        ),
    ] = None,
    show: ShowOption = None,
    preview: PreviewOption = None,
    preview_file: PreviewFileOption = None,
    preview_every: PreviewEveryOption = None,
    server: ServerOption = None,
    local: LocalOption = False,
    ray: RayOption = None,
    workers: WorkersOption = None,
    manifest: ManifestOption = None,
    offline: OfflineOption = None,
    yes: YesOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = None,
) -> None:
    """Draw pictures of PROMPT or of a file of prompts, or repeat one."""
    refuse_empty({
        "--size": size, "--from": from_, "--prompts": prompts, "--preview-file": preview_file,
        "--server": server, "--score": score, "--ray": ray, "--workers": workers, "--manifest": manifest,
    })  # fmt: skip
    typed = replace(_with_size(typed, size), prompt=_prompt_of(prompt, prompts, from_, axes))
    from sana_cli.config.user_settings import preferences, unknown_variables
    from sana_cli.remote.choice import chosen_server

    decode_mode(Decode(typed.decode) if typed.decode else None, typed.tile)  # before settings
    cluster = None
    if ray or workers or manifest:
        from sana_cli.cluster.request import Request

        cluster = Request.of(ray, workers, manifest, {
            "--prompts": prompts, "--dry-run": dry_run, "--grid": grid, "--show": show, "--preview": preview,
            "--preview-file": preview_file, "--preview-every": preview_every, "--local": local,
            "--server": server if server != "off" else None, "--best-of": best_of,
        })  # fmt: skip
    wanted_server = "off" if cluster else chosen_server(server, local=local)
    chosen = preferences()
    picture = _repeated(from_)
    options = with_settings(typed, chosen.options, picture)
    seeing = Seeing.plan(
        chosen, show=show, preview=preview, file=preview_file, every=preview_every,
        json=json, quiet=quiet, output=options.output, overwrite=force,
    )  # fmt: skip
    call = Call(
        options=options, typed=typed, picture=picture, prompts=prompts, seeing=seeing, grid=grid,
        overwrite=force, json=json, is_checked=chosen.is_checked(safety), check_source=chosen.check_source(safety), is_dry=dry_run,
        in_vain=(*unknown_variables(), *seeing.in_vain), axes=axes, best_of=_best_of(best_of, score),
        cluster=cluster,
    )  # fmt: skip
    with picture.named_in_errors(typed) if picture else nullcontext():
        call.find_server("off" if dry_run else wanted_server)
        quiet = chosen.is_quiet(quiet)
        if not call.draw_remotely(quiet=quiet):
            draw_here(call, chosen, offline=chosen.is_offline(offline), yes=yes, quiet=quiet)


def _prompt_of(
    prompt: str | None, prompts: str | None, from_: str | None, axes: "list[Axis]"
) -> str | None:
    """The prompt, also from standard input; None where a file or picture says it. SanaError (usage) without any."""
    if prompts and axes:
        raise usage_error(
            "give --prompts or options with several values, not both",
            "say such values in the file: one line each",
        )
    if prompts and (prompt is not None or from_):
        raise contradiction("--prompts", "--from" if from_ else "PROMPT")
    if prompt == "-" or (prompt is None and not prompts and not from_):
        prompt = piped_prompt(asked=prompt == "-")
    if prompt is None and not prompts and not from_:
        raise usage_error(
            "there is no prompt",
            'say what to draw: sana generate "a cat"; or --prompts FILE, --from PICTURE.png',
        )
    return prompt


def _best_of(number: int | None, score: str | None) -> tuple[int, str] | None:
    if (number is None) != (score is None):
        raise usage_error(
            "--best-of and --score need each other",
            "give both: --best-of 8 --score 'python score.py'",
        )
    return (number, score) if number is not None and score is not None else None


def _with_size(typed: GenerationOptions, size: str | None) -> GenerationOptions:
    """`--size` is width and height in one word."""
    sides = typed.width is not None or typed.height is not None
    for option, text in (("--size", size), ("--aspect", typed.aspect)):
        if text and "," in text:
            from sana_cli.request.sweep import one_value

            raise one_value(option, text)
    if size and sides:
        raise contradiction("--size", "--width or --height")
    if typed.aspect and (size or sides):
        raise contradiction("--aspect", "a size")
    if not size:
        return typed
    width, height = parse_size(size)
    return replace(typed, width=width, height=height)


def _repeated(name: str | None) -> "Picture | None":
    """The picture of --from, without the modules that read one where there is none."""
    if not name:
        return None
    from sana_cli.commands.repeat import Picture

    return Picture.of(name)
