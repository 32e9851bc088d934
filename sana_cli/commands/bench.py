"""`sana bench`: time each stage of a picture, compared with other schemes, other programs and
hardware limits.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sana_cli.config.choices import parse_size
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.terminal.confirm import approval
from sana_cli.terminal.options import (
    DeviceOption,
    ModelOption,
    OfflineOption,
    QuietOption,
    YesOption,
)
from sana_cli.text import print_json, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sana_cli.bench.condition import Condition


def bench(
    model: ModelOption = None,
    random: Annotated[
        str | None,
        typer.Option(
            metavar="VARIANT",
            help="Use random weights of a published model's shapes (sana-0.6b): no download, but gigabytes in TMPDIR.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH", help="Width and height [default: the model's native]", show_default=False
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Denoising steps [default: the model's]", show_default=False
        ),
    ] = None,
    timed_steps: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Time the first K steps and extrapolate the others; every result says so.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Pictures drawn at once.")] = 1,
    scheme: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Ways to run the model: auto, fp32, bf16, fp16, or recipes of `sana quantize` (w8a8, int4), made without data.",
        ),
    ] = "auto",
    decoder: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Decoders to time, as --decoder of `sana generate` takes them: full,lite,tiny "
            "[default: your setting, else full]",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Also time other programs and models: diffusers, diffusers-fp32, diffusers-compile, torchao, quanto, openvino, openvino-fp32, openvino-w8a16, openvino-int8, "
            "or what --model takes.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What ratios of time refer to [default: the first of --compare, else of --scheme]",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[int, typer.Option(metavar="N", help="Rounds; each times everything once.")] = 5,
    warmup: Annotated[
        int, typer.Option(metavar="N", help="Rounds before them that are not timed.")
    ] = 1,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What to draw.", show_default=False)
    ] = None,
    device: DeviceOption = None,
    predict: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Predict the time on other devices: rtx-5090, rtx-4090, rtx-4090-laptop, rtx-4070-laptop, rtx-3060, a100, h100, h200.",
            show_default=False,
        ),
    ] = None,
    predict_for: Annotated[
        str | None,
        typer.Option(
            metavar="VARIANT[@WxH]",
            help="The picture to predict [default: the one that is timed]",
            show_default=False,
        ),
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write the results as JSON; -: print them instead of the table.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the stages as bars.", show_default=False),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a page with the table and the bars.", show_default=False
        ),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EXPR",
            help='Exit with code 5 if this holds: "total>1.2*baseline.json", "sana-w8a8:step>0.5", "times_as_fast<1.2", "psnr<30".',
            show_default=False,
        ),
    ] = None,
    offline: OfflineOption = None,
    yes: YesOption = False,
    quiet: QuietOption = None,
) -> None:
    """Time each stage of a picture, and compare schemes and programs.

    Schemes, model folders and other programs run in turns, and stages are compared with what the
    hardware can do.
    """
    if random is not None and model is not None:
        raise usage_error("give --model or --random, not both", "omit one")
    _check_numbers(batch=batch, runs=runs, warmup=warmup, timed_steps=timed_steps)
    if predict_for and not predict:
        raise usage_error(
            "--predict-for has no effect without --predict", "name devices: --predict h100"
        )

    from sana_cli.bench.condition import parse_condition
    from sana_cli.bench.contenders import parse_decoders, parse_peers, parse_schemes
    from sana_cli.bench.extrapolate import parse_devices, parse_subject
    from sana_cli.config.decoders import FULL
    from sana_cli.config.generation import GenerationOptions
    from sana_cli.config.user_settings import preferences
    from sana_cli.config.variants import VARIANTS

    chosen = preferences()
    usual = GenerationOptions(model=model, device=device).over(chosen.options)
    offline = chosen.is_offline(offline)
    quiet = chosen.is_quiet(quiet)
    conditions = [parse_condition(text) for text in fail_if or []]
    if random is not None and random not in VARIANTS:
        raise usage_error(f"unknown variant {random!r}", f"known: {', '.join(VARIANTS)}")
    _check_files(json=json, plot=plot, html=html)
    from sana_cli.bench import runner

    options = runner.BenchOptions(
        model=None if random else usual.model_or_builtin,
        random=random,
        schemes=parse_schemes(scheme),
        peers=parse_peers(compare) if compare is not None else [],
        decoders=parse_decoders(decoder or usual.decoder or FULL),
        base=base,
        workload=runner.workload(
            size=parse_size(size) if size else None,
            steps=steps,
            timed_steps=timed_steps,
            batch=batch,
            device=usual.device or "auto",
            prompt=prompt,
        ),
        runs=runs,
        warmup=warmup,
        devices=parse_devices(predict) if predict else [],
        subject=parse_subject(predict_for) if predict_for else None,
    )
    from sana_cli.terminal.progress_bars import ConsoleReporter

    with ConsoleReporter(quiet=quiet) as reporter:
        document = runner.run(
            options, offline=offline, reporter=reporter, approve=approval(reporter, yes=yes)
        )
    _tell(document, json=json, plot=plot, html=html)
    _check_conditions(conditions, document)


def _check_numbers(*, batch: int, runs: int, warmup: int, timed_steps: int | None) -> None:
    ranges = (("--batch", batch, 1, 64), ("--runs", runs, 1, 1000), ("--warmup", warmup, 0, 100))
    for option, value, lowest, highest in ranges:
        if not lowest <= value <= highest:
            raise usage_error(f"{option} {value} is out of range", f"use {lowest} to {highest}")
    if timed_steps is not None and timed_steps < 1:
        raise usage_error(f"--timed-steps {timed_steps} is out of range", "use 1 or more")


def _check_files(*, json: str | None, plot: Path | None, html: Path | None) -> None:
    """Refuse what cannot be written, or would be twice, before minutes of work."""
    from sana_cli.files import check_writable, real_path
    from sana_cli.request.output_paths import PNG_ONLY, require_picture

    if plot is not None:
        require_picture(plot, is_folder=False, option="--plot", suffixes=PNG_ONLY)
    files: dict[Path, str] = {}
    document_file = Path(json) if json and json != "-" else None
    for option, path in (("--plot", plot), ("--html", html), ("--json", document_file)):
        if path is not None:
            check_writable(path, option)
            if (real := real_path(path)) in files:
                raise usage_error(
                    f"{files[real]} and {option} would both be {path}",
                    "give each a name of its own",
                )
            files[real] = option


def _check_conditions(conditions: "Sequence[Condition]", document: dict[str, Any]) -> None:
    """Raise SanaError where a condition of --fail-if holds."""
    broken = [(c.text, reason) for c in conditions if (reason := c.broken_by(document))]
    if broken:
        raise SanaError(
            f"--fail-if {broken[0][0]!r}: {'; '.join(reason for _, reason in broken)}",
            hint="the machine may be busy; confirm on an idle one",
            code=ExitCode.CONDITION,
        )


def _tell(
    document: dict[str, object], *, json: str | None, plot: Path | None, html: Path | None
) -> None:
    from sana_cli.bench.results import write_json
    from sana_cli.bench.table import lines

    if json == "-":
        print_json(document)
    else:
        say(*lines(document))
        if json:
            write_json(document, Path(json))
    from sana_cli.files import new_file

    if html is not None:
        from sana_cli.bench.page import html as page

        with new_file(html, overwrite=True) as file:
            file.write(page(document).encode(errors="backslashreplace"))
    if plot is not None:
        from sana_cli.bench.plot import plot as draw

        with new_file(plot, overwrite=True) as file:
            draw(document).save(file, format="PNG")
