"""Keep results of `sana bench` on this machine, so that `sana generate --dry-run` can predict the
time. No torch.

Keeps a rate a stage (operations a second) by model, precision and device; the newest replaces the
one before. Rates of one size of picture serve for others, though small pictures reach less: a
prediction is therefore marked as approximate.
"""

import json
from contextlib import suppress
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from quant.files import changing, new_file, read_small_text
from sana_cli.bench.flops import FP32, Work
from sana_cli.bench.picture_flops import added_to_a_step, encodings
from sana_cli.bench.results import stage_work
from sana_cli.bench.session import PARTS
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.decoders import FULL
from sana_cli.config.places import cache_folder
from sana_cli.errors import SanaError
from sana_cli.memory.text_sizes import text_tokens
from sana_cli.request.params import GenerationParams

# Sana-0.6B in fp32 on two cores of an AMD EPYC held to AVX2 (benchmarks/results/cpu-512-avx2.json): what to expect of a
# model that was never measured here.
ELSEWHERE = "two CPU cores with AVX2 in fp32"
_ELSEWHERE_FLOP_PER_S = {"text": 221e9, "denoise": 199e9, "decode": 183e9}
_STAGES = ("text", "encode", "denoise", "decode")
# The encoder is the decoder's mirror and is not measured by itself.
_RATES = {part: part for part in PARTS} | {"encode": "decode"}


def record(document: dict[str, Any], model: str) -> None:
    """Keep the rates of our own engine on `model` itself, as contenders call it. Nothing is kept without a place to."""
    with suppress(OSError, SanaError), changing(_path()):
        found = _read() | _rates(document, model)
        with new_file(_path(), overwrite=True) as file:
            file.write((json.dumps(found, indent=1) + "\n").encode())


def _rates(document: dict[str, Any], model: str) -> dict[str, Any]:
    found = {}
    for contender in document["contenders"].values():
        if contender["kind"] != "sana" or contender["model"] != model:
            continue  # a peer, or a quantized copy that goes with the measurement
        if contender.get("decoder", FULL) != FULL:
            continue  # its rate is another one
        key = _key(document["model"], contender["computes_in"], document["device"])
        stages = contender["stages"]
        found[key] = {
            "date": document["date"],
            "flop_per_s": {part: stages[part]["flop_per_s"] for part in PARTS},
            "load_s": contender["load_by_part"],
        }
    return found


def foretell(
    checkpoint: Checkpoint,
    settings: GenerationParams,
    precision: str,
    device: str,
    *,
    text_is_cached: bool,
) -> dict[str, Any] | None:
    """Seconds of every stage of one picture, loading apart, and the date of the measurement; None without one."""
    found = _read()
    entry = found.get(_key(checkpoint.name, precision, device))
    # `sana bench --random NAME` measures a model of the same shapes.
    entry = entry or found.get(_key(f"{checkpoint.name}, random weights", precision, device))
    if entry is None:
        return None
    amounts = _all_work(checkpoint, settings, device)
    parts = [part for part in _STAGES if amounts[part] and not (part == "text" and text_is_cached)]
    try:
        seconds = {part: amounts[part] / entry["flop_per_s"][_RATES[part]] for part in parts}
        load = float(sum(entry["load_s"][_RATES[part]] for part in parts))
        seconds = {"load": load, **seconds}
        if not all(isfinite(value) and value >= 0 for value in seconds.values()):
            return None
        return {**seconds, "measured": str(entry["date"])}
    except (KeyError, TypeError, ArithmeticError):  # of another version, or edited
        return None


def seconds_elsewhere(checkpoint: Checkpoint, settings: GenerationParams) -> dict[str, float]:
    """Seconds of every stage of one picture on the machine that `ELSEWHERE` names, without loading."""
    amounts = _all_work(checkpoint, settings, "cpu")
    rates = {part: _ELSEWHERE_FLOP_PER_S[_RATES[part]] for part in _STAGES if amounts[part]}
    return {part: amounts[part] / rate for part, rate in rates.items()}


def _all_work(checkpoint: Checkpoint, settings: GenerationParams, device: str) -> dict[str, float]:
    """Operations of every stage; texts are encoded once for all drawings of a picture."""
    amounts = dict.fromkeys(_STAGES, 0.0)
    for i, drawing in enumerate(settings.passes):
        work = _work(checkpoint, drawing, device)
        amounts["text"] += work["text"].flops if i == 0 else 0
        for part in ("encode", "denoise", "decode"):
            amounts[part] += work[part].flops
    return amounts


def _work(checkpoint: Checkpoint, drawing: GenerationParams, device: str) -> dict[str, Work]:
    prefix, length = text_tokens(checkpoint, drawing)
    other = [1] if drawing.uses_two_branches else []  # mostly "", which is BOS alone
    tokens = {"read": [*other, prefix + length], "seen": [*other, length]}
    sizes = {
        "height": drawing.drawn_height, "width": drawing.drawn_width,
        "steps": drawing.steps_to_run,
    }  # fmt: skip
    work = stage_work(
        replace(checkpoint, decoder=drawing.decoder), sizes, tokens, dict.fromkeys(PARTS, FP32),
        batch=1, device=device,
    )  # fmt: skip
    added = added_to_a_step(checkpoint, drawing, tokens["seen"]) * drawing.steps_to_run
    return {
        **work, "denoise": work["denoise"] + added, "encode": encodings(checkpoint, drawing),
    }  # fmt: skip


def _key(model: str, precision: str, device: str) -> str:
    return f"{model} | {precision} | {device}"


def _path() -> Path:
    return cache_folder() / "speeds.json"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(read_small_text(_path()))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
