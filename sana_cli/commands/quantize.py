"""`sana quantize`: a model becomes a small folder of plain safetensors."""

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sana_cli.errors import ExitCode, SanaError
from sana_cli.options import JsonOption, OfflineOption, QuietOption
from sana_cli.recipes import RECIPES, component_recipe

if TYPE_CHECKING:
    from sana_cli.quantizing import ComponentReport

SchemeOption = Annotated[
    str | None,
    typer.Option(metavar="SCHEME", help="w8a8, w8a16, w4a16-g64 or none [default: the recipe's]"),
]


def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A known name, hub id or folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    recipe: Annotated[
        str, typer.Option(metavar="|".join(RECIPES), help="A scheme for every part at once.")
    ] = "w8a8",
    transformer: SchemeOption = None,
    vae: SchemeOption = None,
    text_encoder: SchemeOption = None,
    offline: OfflineOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a quantized folder.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make MODEL smaller: a quantized folder OUT.

    Needs no data, and holds one layer in memory. A rerun after an interruption goes on behind the finished parts.
    """
    schemes = _schemes(recipe, transformer=transformer, vae=vae, text_encoder=text_encoder)
    from sana_cli.checkpoint import open_checkpoint
    from sana_cli.console import ConsoleReporter

    with ConsoleReporter(quiet=quiet) as reporter:
        checkpoint = open_checkpoint(model, offline=offline, progress=reporter.download)
        if checkpoint.manifest is not None:
            raise SanaError(
                f"{model} is quantized already",
                hint=f"quantize the model it was made from: {checkpoint.manifest.base_model}",
                code=ExitCode.USAGE,
            )
        from sana_cli.quantizing import quantize_folder

        reports = quantize_folder(
            checkpoint,
            out.expanduser(),
            schemes,
            recipe=recipe,
            overwrite=force,
            advance=reporter.count,
        )
    if json:
        _print_json(out, recipe, reports)
    else:
        typer.echo("\n".join(_lines(out, reports)))


def _schemes(recipe: str, **chosen: str | None) -> dict[str, str]:
    """The scheme of each component; usage errors for unknown or unsuitable ones."""
    if recipe not in RECIPES:
        raise SanaError(
            f"unknown recipe {recipe!r}",
            hint=f"known: {', '.join(RECIPES)}",
            code=ExitCode.USAGE,
        )
    schemes = {name: chosen.get(name) or scheme for name, scheme in RECIPES[recipe].items()}
    for component, scheme in schemes.items():
        try:
            component_recipe(component, scheme)
        except ValueError as error:
            option = component.replace("_", "-")
            raise SanaError(
                f"--{option} {scheme}: {error}",
                hint="see `sana quantize --help`",
                code=ExitCode.USAGE,
            ) from error
    return schemes


def _facts(report: "ComponentReport") -> dict[str, Any]:
    values = list(report.sqnr.values())
    return {
        "scheme": report.scheme,
        "layers_quantized": len(values),
        "layers_kept": sum(layer.config is None for layer in report.layers),
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "sqnr_db_worst": round(min(values), 2) if values else None,
        "sqnr_db_median": round(median(values), 2) if values else None,
    }


def _print_json(out: Path, recipe: str, reports: "list[ComponentReport]") -> None:
    from json import dumps

    document = {
        "folder": str(out),
        "recipe": recipe,
        "components": {
            report.component: {
                **_facts(report),
                "kept": {r.path: r.reason for r in report.layers if r.config is None},
            }
            for report in reports
        },
    }
    typer.echo(dumps(document, ensure_ascii=False))


def _lines(out: Path, reports: "list[ComponentReport]") -> list[str]:
    heads = ("part", "scheme", "layers", "kept", "before", "after", "worst", "median SQNR")
    rows = [heads]
    for report in reports:
        facts = _facts(report)
        decibels = [
            "" if facts[key] is None else f"{facts[key]:.1f} dB"
            for key in ("sqnr_db_worst", "sqnr_db_median")
        ]
        rows.append(
            (
                report.component,
                report.scheme,
                str(facts["layers_quantized"]),
                str(facts["layers_kept"]),
                *(f"{facts[key] / 1e6:,.1f} MB" for key in ("bytes_before", "bytes_after")),
                *decibels,
            )  # type: ignore[arg-type]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    reasons: dict[str, int] = {}
    for report in reports:
        for layer in report.layers:
            if layer.config is None:
                reasons[layer.reason] = reasons.get(layer.reason, 0) + 1
    lines += [
        f"kept in floating point, {count} layers: {reason}" for reason, count in reasons.items()
    ]
    before, after = (
        sum(_facts(r)[key] for r in reports) for key in ("bytes_before", "bytes_after")
    )
    size = f"{before / 1e6:,.1f} -> {after / 1e6:,.1f} MB"
    return [*lines, f"{out}: {size}; draw with it: sana generate PROMPT --model {out}"]
