"""Report the result of `sana quantize`: a table for people, one document for scripts. No torch."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from quant.manifest import REPORT
from sana_cli.text import columns, counted, shortened

if TYPE_CHECKING:
    from sana_cli.quantize_checkpoint import ComponentReport


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
        "layers_calibrated": sum(path in report.calibrated for path in report.sqnr),
    }


def _measured_on(facts: dict[str, Any]) -> str:
    """Name the errors that the SQNR measures: without data only that of weights is known."""
    outputs = facts["layers_calibrated"]
    weights = facts["layers_quantized"] - outputs
    if outputs and weights:
        return f"{counted(outputs, 'output')}, {counted(weights, 'weight')}"
    return "outputs" if outputs else "weights" if weights else ""


def json_document(
    out: Path, recipe: str, reports: "list[ComponentReport]", calibration: dict[str, Any] | None
) -> dict[str, Any]:
    """Return everything, for scripts. Calibration's keys exist only when there was one."""
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
    if calibration is None:
        return document
    for report in reports:
        document["components"][report.component]["layers"] = {  # type: ignore[index]
            layer.path: {
                "scheme": str(layer.config),
                "sqnr_db": round(report.sqnr[layer.path], 2),
                "sqnr_of": "output" if layer.path in report.calibrated else "weight",
            }
            for layer in report.layers
            if layer.config is not None
        }
    return {**document, **calibration}


def kept_report(
    recipe: str, reports: "list[ComponentReport]", calibration: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the document with its date, for the folder, where `sana info` reads it."""
    document = json_document(Path(), recipe, reports, calibration)
    del document["folder"]
    return {"written_at": datetime.now(UTC).isoformat(timespec="seconds"), **document}


def lines(
    out: Path,
    reports: "list[ComponentReport]",
    calibration: dict[str, Any] | None,
    *,
    name: str,  # what opens the folder again
) -> list[str]:
    """Return the table, what its words mean, and what to do next."""
    heads = (
        "part", "scheme", "layers", "kept", "before", "after", "worst", "median SQNR", "measured on",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [heads]
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
                _measured_on(facts),
            )
        )
    table = columns(rows)
    table.append(
        f"kept: layers that stay in floating point, with the reasons in {out / REPORT}; "
        "SQNR: of a layer's output where calibration saw it, else of its weights"
    )
    before, after = (
        sum(_facts(r)[key] for r in reports) for key in ("bytes_before", "bytes_after")
    )
    size = f"{before / 1e6:,.1f} -> {after / 1e6:,.1f} MB"
    if calibration is not None:
        table += _calibrated_lines(out, reports, calibration)
    return [*table, f"{out}: {size}; draw with it: sana generate PROMPT --model {name}"]


def _calibrated_lines(
    out: Path, reports: "list[ComponentReport]", calibration: dict[str, Any]
) -> list[str]:
    schemes = {
        report.component: Counter(str(layer.config) for layer in report.layers if layer.config)
        for report in reports
    }
    several = [
        f"{component}: "
        + ", ".join(f"{counted(count, 'layer')} {name}" for name, count in counts.items())
        for component, counts in schemes.items()
        if len(counts) > 1
    ]
    predicted = calibration["calibration"].get("predicted_latent_sqnr_db")
    if predicted is not None:
        several.append(f"predicted SQNR of the latents: {predicted:.1f} dB")
    if decoder := calibration["calibration"].get("decoder"):
        several += _decoder_lines(decoder)
    comparison = calibration["comparison"]
    values = ", ".join(f"{value:.1f}" for value in comparison["psnr_db"])
    return [*several, f"{out / comparison['file']}: PSNR against the float model {values} dB"]


def _decoder_lines(decoder: dict[str, Any]) -> list[str]:
    """Say how close the guarded decoder's pictures are to the float one's, and which layers keep float inputs for it."""
    psnr = decoder["worst_psnr_db"]
    closeness = "equal pictures" if psnr is None else f"PSNR {psnr:.1f} dB at worst"
    reasons: dict[str, list[str]] = {}
    for path, reason in decoder["float_inputs"].items():
        reasons.setdefault(reason, []).append(path)
    kept = [
        f"vae: {counted(len(paths), 'layer')} with float inputs, {reason}: "
        + shortened(", ".join(paths))
        for reason, paths in reasons.items()
    ]
    return [f"vae: {closeness} against the float decoder", *kept]
