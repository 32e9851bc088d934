"""Predict another device: a picture's work at its data-sheet peaks, slowed by what was measured
here. No torch.

A prediction, never a measurement; everything that prints one says so, with the assumptions below.
"""

from dataclasses import asdict
from typing import Any

from sana_cli.bench import flops
from sana_cli.bench.devices import DEVICES, Device
from sana_cli.bench.flops import BF16, INT8, Precisions, Work
from sana_cli.bench.results import floor_seconds
from sana_cli.bench.statistics import rounded
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.choices import parse_size
from sana_cli.config.networks import DCAEConfig, TransformerConfig
from sana_cli.config.variants import VARIANTS
from sana_cli.errors import usage_error

ASSUMPTIONS = (
    "PREDICTION, not a measurement: nothing ran on the device it names.",
    "Each stage reaches the share of the device's data-sheet peak that the same stage reached of this "
    "machine's measured ceiling; at this machine's size of picture.",
    "Products fused as in the CUDA engine, one CUDA graph a step; with eager launches add 5 us each.",
    "bf16: all parts in bf16. int8: transformer and decoder products in int8, the text encoder in bf16.",
    "PNG encoding takes as long as here; loading is not counted; one prompt of 40 tokens after the instruction.",
)
_OTHER_SUBJECT = (
    "The shares are those of {}, a different picture: products of small models and pictures reach less "
    "of a ceiling than large ones, so time one of about the same size (--random) for a better prediction."
)
_LAUNCH_S = 5e-6  # an eager launch on a usual host
_TEXT_READ, _TEXT_SEEN = [1, 259], [1, 41]  # tokens: the instruction has 219 with Gemma's tokenizer


def parse_devices(text: str) -> list[str]:
    """`rtx-4090,h100` -> names of `DEVICES`; SanaError for others."""
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not names:
        raise usage_error(f"--predict {text!r} names no device", f"known: {', '.join(DEVICES)}")
    for name in names:
        if name not in DEVICES:
            raise usage_error(f"unknown device {name!r}", f"known: {', '.join(DEVICES)}")
    return names


def parse_subject(text: str) -> tuple[str, tuple[int, int]]:
    """`sana-0.6b` or `sana-0.6b@1024x1024` -> a variant's name and (width, height)."""
    name, _, size = text.partition("@")
    if name not in VARIANTS:
        raise usage_error(f"unknown variant {name!r}", f"known: {', '.join(VARIANTS)}")
    native = VARIANTS[name].native_size
    return name, parse_size(size) if size else (native, native)


def extrapolate(
    document: dict[str, Any],
    devices: list[str],
    *,
    checkpoint: Checkpoint,
    gemma: dict[str, Any],
    subject: tuple[str, tuple[int, int]] | None,
) -> dict[str, Any]:
    """Predicted seconds of each stage by device and arithmetic, from the first contender's efficiencies.

    `subject` names another model and size than what was measured.
    """
    transformer, vae, settings = checkpoint.transformer, checkpoint.vae, document["settings"]
    model, size = document["model"], (settings["width"], settings["height"])
    steps, branches = settings["steps"], settings["branches"]
    if subject is not None:
        model, size = subject
        variant = VARIANTS[model]
        transformer, vae = TransformerConfig(**asdict(variant.structure)), DCAEConfig()
        gemma, steps, branches = flops.GEMMA_2_2B, variant.steps, 1 if variant.sprint else 2
    name, measured = next(iter(document["contenders"].items()))
    stages = measured["stages"]
    efficiency = {
        stage: min(1.0, stages[stage]["share_of_floor"]) for stage in ("text", "step", "decode")
    }
    rows: dict[str, dict[str, Any]] = {}
    for key in devices:
        device = DEVICES[key]
        schemes = {
            scheme: _on_device(
                device, transformer, vae, gemma, size, steps, branches, kind, efficiency,
                stages["encode"]["median"],
            )
            for scheme, kind in (("bf16", BF16), ("int8", INT8))
        }  # fmt: skip
        rows[key] = {"name": device.name, "source": device.source, **schemes}
    assumptions = list(ASSUMPTIONS)
    if subject is not None:
        assumptions.append(_OTHER_SUBJECT.format(document["model"]))
    return {
        "what": f"{model}, {size[0]}x{size[1]}, {steps} steps, batch 1",
        "efficiencies_of": f"{name} on {document['machine']['gpu'] or document['machine']['cpu']}",
        "efficiency": efficiency,
        "assumptions": assumptions,
        "devices": rows,
    }


def _on_device(
    device: Device,
    transformer: TransformerConfig,
    vae: DCAEConfig,
    gemma: dict[str, Any],
    size: tuple[int, int],
    steps: int,
    branches: int,
    kind: Precisions,
    efficiency: dict[str, float],
    encode: float,
) -> dict[str, Any]:
    width, height = size
    peaks = {
        "fp32": device.fp32, "bf16": device.bf16, "int8": device.int8, "copy": device.bandwidth,
    }  # fmt: skip
    step = flops.denoise_step(
        transformer, height=height, width=width, text_tokens=_TEXT_SEEN[-branches:], kind=kind
    )
    amounts: dict[str, tuple[Work, Precisions, int]] = {
        "text": (flops.encode_texts(gemma, _TEXT_READ[-branches:], kind=BF16), BF16, 1),
        "step": (step, kind, steps),
        "decode": (flops.decode(vae, height=height, width=width, kind=kind), kind, 1),
    }
    floor = {s: floor_seconds(w, k, peaks) * times for s, (w, k, times) in amounts.items()}
    seconds = {s: value / efficiency[s] for s, value in floor.items()}
    return {
        "floor": _with_total(floor, encode),
        "predicted": _with_total(seconds, encode),
        "launches_a_step": step.launches,
        "eager_launches_would_add": rounded(step.launches * steps * _LAUNCH_S),
    }


def _with_total(seconds: dict[str, float], encode: float) -> dict[str, float]:
    named = {"text": seconds["text"], "denoise": seconds["step"], "decode": seconds["decode"]}
    drawn = sum(named.values())
    return {
        **{stage: rounded(value) for stage, value in named.items()},
        "encode": rounded(encode),
        "total": rounded(drawn + encode),
        "total_without_png": rounded(drawn),
    }
