"""`sana compare`: two models draw the same prompts and seeds, side by side on one sheet."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sana_cli.config.choices import parse_size
from sana_cli.errors import SanaError, usage_error
from sana_cli.terminal.completion import complete_model
from sana_cli.terminal.confirm import approval
from sana_cli.terminal.options import (
    DeviceOption,
    ForceOption,
    JsonOption,
    MaxMemoryOption,
    OfflineOption,
    QuietOption,
    YesOption,
    refuse_empty,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sana_cli.bench.compare import Comparison, Contender
    from sana_cli.checkpoints.checkpoint import Checkpoint
    from sana_cli.config.generation import GenerationOptions

_FIRST_SEED = 1


def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A model, as --model takes it.",
            autocompletion=complete_model,
            show_default=False,
        ),
    ],
    second: Annotated[
        str,
        typer.Argument(
            metavar="B",
            help="Another one, such as its quantized folder.",
            autocompletion=complete_model,
            show_default=False,
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            "-p",
            metavar="TEXT",
            help="What to draw; repeat for several [default: four built-in prompts]",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Prompts from a file, as `sana generate` reads it.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"Seed of the first prompt; the next ones count up [default: {_FIRST_SEED}]",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Denoising steps [default: each model's own]", show_default=False
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Width and height [default: A's own]", show_default=False),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="The sheet: a .png file, or a folder [default: compare-A-B.png]",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = None,
    max_memory: MaxMemoryOption = None,
    offline: OfflineOption = None,
    yes: YesOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = None,
) -> None:
    """Draw the same with two models, and measure the difference.

    Both get the same prompts, seeds and size. Saves a labelled sheet: A's picture, B's, and their difference. PSNR above 40 dB is hard to see, below 25 dB it is
    another picture.
    """
    from sana_cli.checkpoints.obtaining import Access
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.config.generation import GenerationOptions
    from sana_cli.config.user_settings import preferences
    from sana_cli.pipeline.safety import SafetyCheck
    from sana_cli.request.output_paths import PNG_ONLY, Target, picture_path
    from sana_cli.request.runtime import runtime_of
    from sana_cli.terminal.progress_bars import ConsoleReporter
    from sana_cli.text import slug

    refuse_empty({"--output": output, "--prompts": prompts, "--max-memory": max_memory})
    if prompt and prompts:
        raise usage_error("give --prompt or --prompts, not both", "omit one")
    chosen = preferences()
    width, height = parse_size(size) if size else (None, None)
    typed = GenerationOptions(
        width=width, height=height, steps=steps, device=device, max_memory=max_memory
    )
    common = typed.over(chosen.options)
    place = Target.of(output)
    target = picture_path(
        place,
        suffixes=PNG_ONLY,
        default=lambda: Path(f"compare-{slug(_label(first))}-{slug(_label(second))}.png"),
        overwrite=force,
    )
    source = chosen.check_source(None)  # nothing asks for the check but a setting
    checks = SafetyCheck.find(chosen.safety_model, set_by=source) if chosen.safety else None
    with ConsoleReporter(quiet=chosen.is_quiet(quiet)) as reporter:
        access = Access(
            offline=chosen.is_offline(offline),
            progress=reporter.download,
            approve=approval(reporter, yes=yes),
        )
        one, other = (open_checkpoint(name, access) for name in (first, second))
        asked = _asked(prompt, prompts, one, reporter.notice)
        contenders = _contenders((first, second), (one, other), asked, common, seed)
        from sana_cli.bench import compare as comparing
        from sana_cli.system.precision import pick_device

        with common.naming_source_of("device"):
            on = pick_device(common.device or "auto")
        if checks is not None:
            texts = [options.prompt or "" for options in contenders[0].requests]
            refused = checks.refusals(
                texts, device=on, max_memory=runtime_of(common, one).max_memory, spare=0,
                reporter=reporter,
            )  # fmt: skip
            for error in refused.values():
                raise error
        found = comparing.compare(
            *contenders, device=on, target=target, overwrite=force, reporter=reporter
        )
    _tell(found, json=json)


def _label(model: str) -> str:
    """The last part of a name or path."""
    return model.rstrip("/\\").replace("\\", "/").rpartition("/")[2] or model


def _asked(
    typed: list[str] | None,
    file: str | None,
    checkpoint: "Checkpoint",
    notice: "Callable[[str], None]",
) -> "list[GenerationOptions]":
    from sana_cli.config.generation import GenerationOptions

    if file:
        from sana_cli.request.prompt_file import read_prompt_file

        read = read_prompt_file(file)
        for message in read.notices:
            notice(message)
        return [line.options for line in read.only_lines]
    if not typed:
        from calibration.prompts import compared_prompts

        typed = compared_prompts(checkpoint.own.vocabulary)
    return [GenerationOptions(prompt=text) for text in typed]


def _contenders(
    names: tuple[str, str],
    checkpoints: "tuple[Checkpoint, Checkpoint]",
    asked: "list[GenerationOptions]",
    common: "GenerationOptions",
    seed: int | None,
) -> "tuple[Contender, Contender]":
    """Pair both models with the same prompts, seeds and sizes. Raises SanaError if one of them
    cannot draw these.
    """
    from sana_cli.bench.compare import Contender
    from sana_cli.config.generation import GenerationOptions
    from sana_cli.request.output_paths import planned
    from sana_cli.request.params import resolve
    from sana_cli.request.runtime import runtime_of

    labels = tuple(checkpoint.name for checkpoint in checkpoints)
    if labels[0] == labels[1]:
        labels = names
    requests: tuple[list[GenerationOptions], list[GenerationOptions]] = ([], [])
    for i, options in enumerate(asked):
        first_seed = _FIRST_SEED if seed is None else seed
        wished = replace(options, seed=first_seed + i if options.seed is None else options.seed)
        common_size: tuple[int, int] | None = None
        for label, checkpoint, found in zip(labels, checkpoints, requests, strict=True):
            try:
                request = replace(wished.over(common), output=None)
                if common_size:
                    width, height = common_size
                    request = replace(request, width=width, height=height, aspect=None)
                planned(request, checkpoint, overwrite=False)
                runtime_of(request, checkpoint)
                params = resolve(request, checkpoint)
            except SanaError as error:
                error.message = f"{label}: {error.message}"
                raise
            common_size = params.width, params.height
            found.append(
                replace(request, width=params.width, height=params.height, aspect=None, count=None)
            )
    one, other = (
        Contender(name=label, checkpoint=checkpoint, requests=found)
        for label, checkpoint, found in zip(labels, checkpoints, requests, strict=True)
    )
    return one, other


def _tell(found: "Comparison", *, json: bool) -> None:
    from sana_cli.text import print_json, say

    if json:
        print_json(_document(found))
        return
    for one in found.pictures:
        say(f"{one.closeness}  seed {one.seed}  {one.prompt}")
    first, second = (contender.name for contender in found.contenders)
    seconds = [f"{drawn.seconds:.1f} s" for drawn in found.drawn]
    say(
        f"{first} and {second}: PSNR {found.median_db:.1f} dB in the median, {found.worst_db:.1f} dB at worst; "
        f"{seconds[0]} and {seconds[1]} a picture",
        str(found.sheet),
    )


def _document(found: "Comparison") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "models": [
            {"name": contender.name, "revision": contender.checkpoint.revision, **asdict(drawn)}
            for contender, drawn in zip(found.contenders, found.drawn, strict=True)
        ],
        "device": found.device,
        "psnr_db_median": found.median_db,
        "psnr_db_worst": found.worst_db,
        "pictures": [
            {
                "prompt": one.prompt, "seed": one.seed, "width": request.width, "height": request.height,
                **asdict(one.closeness),
            }
            for one, request in zip(found.pictures, found.contenders[0].requests, strict=True)
        ],
        "sheet": str(found.sheet),
    }  # fmt: skip
