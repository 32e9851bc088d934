"""A session as text for people. No torch."""

from typing import Any

from sana_cli.bench.results import STAGES
from sana_cli.text import counted, readable_memory

_LEGEND = (
    "p10, p90: of all timed runs; first: the first run after loading, with compilation",
    "prepare: keys and values of the text, once a prompt; step: one denoising step; cpu: all threads together",
    "ceilings: what short products and copies reached here; of floor: the least time at the ceilings, as a share of the median",
)


def lines(document: dict[str, Any]) -> list[str]:
    """Return all that a person reads in a terminal."""
    found = [*_heading(document), ""]
    for name, contender in document["contenders"].items():
        found += [*_contender(name, contender, document), ""]
    if document["times_as_fast"]:
        found += [*_ratios(document), ""]
    if "prediction" in document:
        found += [*prediction_lines(document["prediction"]), ""]
    return [*found, *_LEGEND]


def _heading(document: dict[str, Any]) -> list[str]:
    settings, machine = document["settings"], document["machine"]
    ceilings = machine["ceilings"]
    rates = ", ".join(
        f"{name} {_giga(value)} GFLOP/s" for name, value in ceilings.items() if name != "copy"
    )
    where = machine["gpu"] or f"{machine['cpu']}, {counted(machine['threads'], 'thread')}"
    first = (
        f"{document['model']}, {settings['width']}x{settings['height']}, {counted(settings['steps'], 'step')}, "
        f"guidance {settings['guidance']:g}, batch {settings['batch']}; {counted(settings['runs'], 'run')} "
        f"after {settings['warmup']} to warm up"
    )
    found = [
        first,
        f"{document['device']}: {where}",
        f"ceilings: {rates}, copy {_giga(ceilings['copy'])} GB/s",
    ]
    if document["extrapolated"]:
        found.append(f"extrapolated: {document['extrapolated']}")
    apart = [part for part, together in document["interleaved"].items() if not together]
    if apart:
        found.append(f"one after the other, for want of memory: {', '.join(apart)}")
    return found


def _contender(name: str, contender: dict[str, Any], document: dict[str, Any]) -> list[str]:
    kernels = "; ".join(f"{kind}: {kernel}" for kind, kernel in contender["kernels"].items())
    title = f"{name} ({contender['computes_in']}{'; ' + kernels if kernels else ''})"
    header = f"  {'seconds':<9}{'median':>10}{'p10':>10}{'p90':>10}{'first':>10}{'GFLOP/s':>10}{'GB/s':>8}{'of floor':>10}"
    rows = [title, header]
    stages = contender["stages"]
    rows += [_row(stage, stages[stage]) for stage in STAGES if stage in stages]
    peak = f"  peak memory: host {readable_memory(contender['peak_host_bytes'])}"
    if contender["peak_device_bytes"] is not None:
        peak += f", device {readable_memory(contender['peak_device_bytes'])}"
    rows.append(peak)
    if contender["conversion"]:
        parts = (
            f"{part} {taken['seconds']:.4g} s, {readable_memory(taken['peak_bytes'])}"
            for part, taken in contender["conversion"].items()
        )
        rows.append("  converted before, in processes of their own: " + "; ".join(parts))
    if contender["joules"]:
        rows.append("  joules: " + ", ".join(f"{p} {v:g}" for p, v in contender["joules"].items()))
    if name in document["pictures"]:
        found = document["pictures"][name]
        psnr = "equal" if found["psnr_db"] is None else f"{found['psnr_db']:.1f} dB"
        rows.append(
            f"  its picture compared with the first one's: {psnr}, largest difference {found['largest_difference']:.0f}/255"
        )
    return rows


def _row(stage: str, values: dict[str, Any]) -> str:
    row = f"  {stage:<9}{values['median']:>10.4g}{values['p10']:>10.4g}{values['p90']:>10.4g}"
    row += f"{values['first']:>10.4g}" if "first" in values else " " * 10
    if "flops" in values:
        row += f"{_giga(values['flop_per_s']):>10}{_giga(values['byte_per_s']):>8}"
        row += f"{values['share_of_floor']:>10.0%}"
    return row.rstrip()


def _ratios(document: dict[str, Any]) -> list[str]:
    base = document["base"]
    rows = [f"times as fast as {base} (median of pairs, p10 to p90)"]
    for name, stages in document["times_as_fast"].items():
        parts = [
            f"{stage} {values['median']:.2f} ({values['p10']:.2f}-{values['p90']:.2f})"
            for stage, values in stages.items()
        ]
        rows.append(f"  {name}: " + ", ".join(parts))
    return rows


def prediction_lines(prediction: dict[str, Any]) -> list[str]:
    """The table of a prediction, with everything that it assumes."""
    rows = [
        f"PREDICTION for {prediction['what']} (efficiencies of {prediction['efficiencies_of']})"
    ]
    rows.append(
        f"  {'seconds':<46}{'text':>9}{'denoise':>9}{'decode':>9}{'PNG':>9}{'total':>9}{'floor':>9}"
    )
    for device in prediction["devices"].values():
        for scheme in ("bf16", "int8"):
            values, floor = device[scheme]["predicted"], device[scheme]["floor"]
            cells = [values[s] for s in ("text", "denoise", "decode", "encode", "total")]
            row = "".join(f"{value:>9.3g}" for value in (*cells, floor["total"]))
            rows.append(f"  {device['name'] + ', ' + scheme:<46}{row}")
    return [*rows, *(f"  - {line}" for line in prediction["assumptions"])]


def _giga(value: float) -> str:
    return f"{value / 1e9:,.0f}" if value >= 1e10 else f"{value / 1e9:.2g}"
