"""Choices by name, and the parsers of their texts. No torch."""

import re
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite, sqrt
from pathlib import Path
from typing import Literal, get_args

from sana_cli.errors import require, usage_error

SchedulerName = Literal["flow-dpm", "flow-euler", "scm"]


class Scheduler(StrEnum):
    """Samplers, by the name that users type."""

    FLOW_DPM = "flow-dpm"
    FLOW_EULER = "flow-euler"
    SCM = "scm"


class Precision(StrEnum):
    """Compute precision of the transformer."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Backend(StrEnum):
    """Library whose kernels run quantized layers."""

    AUTO = "auto"
    NATIVE = "native"
    TORCHAO = "torchao"
    QUANTO = "quanto"
    REFERENCE = "reference"


class PictureFormat(StrEnum):
    """Format of a picture whose name does not say it, by the suffix that its name gets."""

    PNG = "png"
    JPG = "jpg"
    WEBP = "webp"


class Device(StrEnum):
    """Device that a model runs on."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Decode(StrEnum):
    """Mode of decoding latents to pixels."""

    AUTO = "auto"
    WHOLE = "whole"
    EXACT_TILES = "exact-tiles"
    BLENDED_TILES = "blended-tiles"


class PlanName(StrEnum):
    """Memory plan by name, the fastest first; `memory.plans` describes the parts that each keeps in memory."""

    AUTO = "auto"
    RESIDENT = "resident"
    STAGES = "stages"
    BRANCHES = "branches"
    STREAMED = "streamed"


class ControlType(StrEnum):
    """Way to find the lines of a control picture."""

    NONE = "none"
    CANNY = "canny"
    LINEART = "lineart"
    HED = "hed"
    SCRIBBLE = "scribble"


HED_TYPES = (ControlType.HED, ControlType.SCRIBBLE)  # by a network that is downloaded


class ControlOrder(StrEnum):
    """Order in which a ControlNet runs with its transformer (`models/controlnet.py`)."""

    TRAINED = "trained"
    DIFFUSERS = "diffusers"


RANDOM_SEEDS = ("random", "-1")  # what users type for a seed that nobody chose
DecodeMode = Literal["auto", "whole", "exact-tiles", "blended-tiles"]  # the same, as plain data
_MODES: dict[str, DecodeMode] = {mode: mode for mode in get_args(DecodeMode)}
MAX_PROMPT = 20_000  # characters; models see the first 300 tokens
MAX_SIDE = 16384  # pixels of a picture; larger ones are typing mistakes
MOST_LAYERS = 1000  # of a network; more are damage or mischief
EXACT_TILE = 512  # pixels, unless --tile says otherwise
BLENDED_TILE = 1024  # as published
# Pixels; smaller tiles save little and compute their surroundings many times over.
SMALLEST_RETRY = 128


def parse_size(text: str) -> tuple[int, int]:
    """Read "1024x768" as (1024, 768), width first, and "512" as a square; SanaError otherwise."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*(?:[xX*\u00d7]\s*(\d{1,6})\s*)?", text, re.ASCII)
    if not match:
        raise usage_error(
            f"cannot read size {text!r}",
            "write WIDTHxHEIGHT: 1024x768, or one number for a square: 512",
        )
    return int(match[1]), int(match[2] or match[1])


def is_drawable(*sides: int) -> bool:
    """Check whether a model can draw a picture with these sides, in pixels."""
    return all(32 <= side <= MAX_SIDE and side % 32 == 0 for side in sides)


def parse_seed(text: str) -> int:
    """Read a seed; "random" and -1 roll one. typer.BadParameter for what is no whole number."""
    if text.strip().lower() in RANDOM_SEEDS:
        import secrets

        return secrets.randbelow(2**32)
    try:
        return int(text)
    except ValueError as error:
        import typer

        raise typer.BadParameter(f"{text!r} is not a whole number or 'random'") from error


def size_of_aspect(text: str, native_size: int) -> tuple[int, int]:
    """Read "16:9" as (width, height): multiples of 32 with about native_size^2 pixels."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*[:/]\s*(\d+(?:\.\d+)?)\s*", text)
    ratio = float(match[1]) / float(match[2]) if match and float(match[2]) else 0.0
    if not 1 / 8 <= ratio <= 8:
        raise usage_error(
            f"cannot use aspect ratio {text!r}", "write W:H between 1:8 and 8:1, such as 16:9"
        )
    sides = native_size * sqrt(ratio), native_size / sqrt(ratio)
    width, height = (max(32, round(side / 32) * 32) for side in sides)
    return width, height


_UNITS = {
    "": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40,
}  # fmt: skip


def parse_bytes(text: str) -> int:
    """Read "4GiB", "4 GB", "3.5g" or "800MiB" as bytes; SanaError otherwise."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(|[kmgt]i?)b?\s*", text, re.IGNORECASE)
    number, unit = (float(match[1]), match[2].lower()) if match else (0.0, "")
    amount = number * _UNITS[unit]
    if not 2**20 <= amount < 2**50:
        bare = number and not unit
        raise usage_error(
            f"cannot use {text!r} as an amount of memory",
            f"give it a unit: {number:g}GiB, or {number:g}MiB"
            if bare
            else "write a number and GiB, GB, MiB or MB, at least 1MiB: 4GiB",
        )
    return int(amount)


def parse_interval(text: str) -> tuple[float, float]:
    """Read "0.2-0.8" as the noise levels (0.2, 0.8), the lower one first; SanaError otherwise."""
    match = re.fullmatch(r"\s*(\d*\.?\d+)\s*-\s*(\d*\.?\d+)\s*", text)
    low, high = (float(match[1]), float(match[2])) if match else (1.0, 0.0)
    if not 0 <= low < high <= 1:
        raise usage_error(
            f"cannot use the interval {text!r}",
            "write LOW-HIGH, noise levels between 0 and 1: --guidance-interval 0.2-0.9",
        )
    return low, high


@dataclass(frozen=True, slots=True)
class Pag:
    """Perturbed-attention guidance: how strong, and in which of the transformer's blocks, from 0."""

    scale: float
    layer: int

    def __str__(self) -> str:
        """Return the form that `parse_pag` reads and pictures store."""
        return f"{self.scale!r}:{self.layer}"


def require_strength(strength: float, option: str) -> float:
    """Return how much is redrawn, as `option` says it; SanaError (usage) where that is no share of a picture."""
    require(
        isfinite(strength) and 0 < strength <= 1,
        f"{option} {strength:g} is out of range",
        "use more than 0 (nothing changes) to 1 (drawn from noise)",
    )
    return float(strength)


def require_length(text: str) -> str:
    """Return what a prompt says; SanaError (usage) where that is too long."""
    require(
        len(text) <= MAX_PROMPT,
        f"a prompt of {len(text):,} characters is too long",
        f"at most {MAX_PROMPT:,}; models read about the first 300 words",
    )
    return text


def parse_pag(text: str, blocks: int) -> Pag | None:
    """Read "2" or "2:14" for a model of so many blocks; None for a scale of 0. SanaError (usage) for anything else.

    Without a layer it is NVIDIA's: 8 of the 20 blocks of a 1.6B model, else the middle, 14 of 28 in 0.6B
    (NVlabs/Sana, configs/sana_app_config).
    """
    match = re.fullmatch(r"\s*(\d{1,3}(?:\.\d{0,6})?|\.\d{1,6})\s*(?::\s*(\d{1,3})\s*)?", text)
    scale = float(match[1]) if match else -1.0
    if match is None or scale > 100:
        raise usage_error(
            f"cannot use --pag {text!r}",
            "write SCALE or SCALE:LAYER, scales of 0 (off) to 100: --pag 2 or --pag 2:4",
        )
    layer = int(match[2]) if match[2] else 8 if blocks == 20 else blocks // 2
    if layer >= blocks:
        raise usage_error(
            f"--pag {text}: there is no block {layer}",
            f"use 0 to {blocks - 1}: this model has {blocks} blocks",
        )
    return Pag(scale, layer) if scale else None


def decode_mode(decode: Decode | None, tile: int | None) -> DecodeMode:
    """Combine --decode and --tile (pixels) into a mode. Raises SanaError (usage) for an impossible tile."""
    if tile is None:
        return "auto" if decode is None else _MODES[decode]
    if tile % 32 or not 32 <= tile <= 16384:
        raise usage_error(
            f"cannot decode in tiles of {tile} pixels",
            "use a multiple of 32 from 32 to 16384, such as --tile 512",
        )
    if decode in (Decode.AUTO, Decode.WHOLE):
        raise usage_error(
            f"--decode {decode} has no tiles", "omit --tile, or use --decode exact-tiles"
        )
    return "exact-tiles" if decode is None else _MODES[decode]


def split_scale(text: str) -> tuple[str, float | None]:
    """Read "sketch.png:0.8" as a file and a scale; the scale is None where the text names none."""
    path, colon, number = text.rpartition(":")
    if not colon or not path or Path(text).expanduser().is_file():
        return text, None
    try:
        return path, float(number)
    except ValueError:
        return text, None  # a colon of the path
