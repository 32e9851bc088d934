"""The JSON document of a session: every stage with its spread, its share of the floor, and ratios. No torch."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from sana_cli.bench import flops
from sana_cli.bench.contenders import Contender, Workload
from sana_cli.bench.flops import Precisions, Work
from sana_cli.bench.session import PARTS, Results, Timings
from sana_cli.bench.statistics import paired_ratios, rounded, spread
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.find_decoder import find_decoder
from sana_cli.checkpoints.model_files import read_json
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.text import JSON_VERSION

STAGES = (  # in the order of a table
    "load", "text", "prompt", "prepare", "step", "denoise", "decode", "encode", "picture", "total", "cpu",
)  # fmt: skip
_PART_OF = {  # stage -> the part that runs it
    "text": "text", "prepare": "denoise", "step": "denoise", "denoise": "denoise", "decode": "decode",
}  # fmt: skip


def build_document(
    results: Results,
    contenders: Sequence[Contender],
    workload: Workload,
    *,
    model: str,
    base: str,
    runs: int,
    warmup: int,
) -> dict[str, Any]:
    """Return all measurements as plain values."""
    start = next(iter(results.started.values()))
    settings = start["settings"]
    rounds = {c.name: _rounds(results.timings[c.name], settings["steps"]) for c in contenders}
    if start["device"] == "cpu":
        for name, stages in rounds.items():
            stages["cpu"] = _cpu_rounds(results.timings[name], settings["steps"])
    timed = start["timed_steps"]
    extrapolated = (
        f"{timed} of {settings['steps']} steps timed" if timed < settings["steps"] else None
    )
    return {
        "benchmark": "bench",
        "date": date.today().isoformat(),
        "model": model,
        "device": start["device"],
        "settings": {**settings, "batch": workload.batch, "runs": runs, "warmup": warmup},
        "extrapolated": extrapolated,
        "interleaved": results.interleaved,
        "machine": results.machine,
        "contenders": {
            c.name: _contender(c, results, rounds[c.name], workload.batch) for c in contenders
        },
        "base": base,
        "times_as_fast": {
            name: {
                stage: paired_ratios(rounds[base][stage], rounds[name][stage])
                for stage in STAGES
                if stage in rounds[base] and stage in rounds[name] and stage not in ("load", "step")
            }
            for name in rounds
            if name != base
        },
        "pictures": _compare_pictures(results.pictures),
    }


def _rounds(timings: Timings, steps: int) -> dict[str, list[float]]:
    """Seconds of each stage, round by round, in the order of `STAGES`; "step" has all steps of all rounds."""
    found: dict[str, list[float]] = {"load": [sum(timings.load.values())]}
    for stage in ("text", "prompt", "prepare", "step"):
        if stage in timings.runs:
            found[stage] = [value for values in timings.runs[stage] for value in values]
    found["denoise"] = [sum(v) / len(v) * steps for v in timings.runs["step"]]
    for stage in ("decode", "encode"):
        found[stage] = [values[0] for values in timings.runs[stage]]
    parts = [found[s] for s in ("text", "prepare", "denoise", "decode", "encode") if s in found]
    found["picture"] = [sum(values) for values in zip(*parts, strict=True)]
    found["total"] = [found["load"][0] + seconds for seconds in found["picture"]]
    return found


def _cpu_rounds(timings: Timings, steps: int) -> list[float]:
    """CPU seconds of a picture, all threads together: what else the machine does adds nothing to them."""
    timed = [len(values) for values in timings.runs["step"]]
    scaled = [
        value * steps / count for value, count in zip(timings.cpu["denoise"], timed, strict=True)
    ]
    return [sum(v) for v in zip(timings.cpu["text"], scaled, timings.cpu["decode"], strict=True)]


def _contender(
    contender: Contender, results: Results, rounds: dict[str, list[float]], batch: int
) -> dict[str, Any]:
    timings, started = results.timings[contender.name], results.started[contender.name]
    stages: dict[str, dict[str, Any]] = {
        stage: {**spread(values), "values": [rounded(value) for value in values]}
        for stage, values in rounds.items()
    }
    for stage, values in timings.first.items():
        stages[stage]["first"] = rounded(values[0])
    checkpoint = open_checkpoint(contender.model, offline=True)
    other = find_decoder(contender.decoder, checkpoint)
    checkpoint = replace(checkpoint, decoder=other)
    kinds = {part: Precisions(**kind) for part, kind in timings.facts["kinds"].items()}
    useful = stage_work(
        checkpoint, started["settings"], timings.facts["text_tokens"], kinds,
        batch=batch, device=started["device"],
    )  # fmt: skip
    for stage, amount in useful.items():
        if stage in stages:
            kind = kinds[_PART_OF[stage]]
            stages[stage] |= _rates(amount, kind, results.machine["ceilings"], stages[stage])
    joules = {part: rounded(sum(v) / len(v)) for part, v in timings.joules.items()}
    return {
        **contender.to_json(),
        "computes_in": started["precision"],
        "kernels": timings.facts["kernels"],
        "stages": stages,
        "conversion": timings.facts["conversion"] or None,
        "load_by_part": {part: rounded(timings.load[part]) for part in PARTS},
        "peak_host_bytes": timings.facts["peak_host_bytes"],
        "peak_device_bytes": timings.facts["peak_device_bytes"],
        "joules": joules or None,
    }


def stage_work(
    checkpoint: Checkpoint,
    settings: dict[str, Any],
    text_tokens: dict[str, list[int]],
    kinds: dict[str, Precisions],
    *,
    batch: int,
    device: str,
) -> dict[str, Work]:
    """Count the least work of each stage: without anybody's padding or repetitions."""
    other = checkpoint.decoder
    height, width = settings["height"], settings["width"]
    gemma = read_json(checkpoint.folder / "text_encoder/config.json")
    step = flops.denoise_step(
        checkpoint.transformer, height=height, width=width, text_tokens=text_tokens["seen"],
        batch=batch, kind=kinds["denoise"],
    )  # fmt: skip
    return {
        "text": flops.encode_texts(gemma, text_tokens["read"], kind=kinds["text"]),
        "prepare": flops.text_keys(
            checkpoint.transformer, text_tokens["seen"], batch=batch, kind=kinds["denoise"]
        ),
        "step": step,
        "denoise": step * settings["steps"],
        "decode": flops.decode(
            other.config if other else checkpoint.vae,
            height=height, width=width, batch=batch, kind=kinds["decode"], folded=device == "cpu",
        ),
    }  # fmt: skip


def floor_seconds(amount: Work, kind: Precisions, peaks: dict[str, float]) -> float:
    """The least time at these peaks: operations and traffic overlap perfectly."""
    peak = peaks.get(kind.arithmetic) or peaks["bf16" if kind.arithmetic == "fp16" else "fp32"]
    return max(amount.flops / peak, amount.bytes / peaks["copy"])


def _rates(
    amount: Work, kind: Precisions, ceilings: dict[str, float], timed: dict[str, Any]
) -> dict[str, Any]:
    return {
        "flops": amount.flops,
        "bytes": amount.bytes,
        "flop_per_s": rounded(amount.flops / timed["median"]),
        "byte_per_s": rounded(amount.bytes / timed["median"]),
        "arithmetic": kind.arithmetic,
        "share_of_floor": rounded(floor_seconds(amount, kind, ceilings) / timed["median"]),
    }


def _compare_pictures(pictures: dict[str, Path]) -> dict[str, dict[str, float | None]]:
    """Compare each contender's picture with the first one's, in levels of 0 to 255: a changed
    picture shows here.
    """
    import numpy as np

    arrays = {name: np.load(path).astype(np.float64) for name, path in pictures.items()}
    first = next(iter(arrays.values()))
    found: dict[str, dict[str, float | None]] = {}
    for name, array in list(arrays.items())[1:]:
        difference = np.abs(array - first)
        error = float(np.square(difference).mean())
        found[name] = {
            "largest_difference": float(difference.max()),
            "mean_difference": rounded(float(difference.mean())),
            "psnr_db": rounded(10 * float(np.log10(255**2 / error))) if error else None,
        }
    return found


def write_json(document: dict[str, Any], path: Path) -> None:
    """Write the document, whole or not at all."""
    from sana_cli.files import new_file

    versioned = {"version": JSON_VERSION, **document}  # as `--json -` has it
    with new_file(path, overwrite=True) as file:
        file.write((json.dumps(versioned, indent=1) + "\n").encode())
