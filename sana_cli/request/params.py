"""What to draw, checked before any work: options resolved for one model. No torch."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.lora_file import Lora, open_loras
from sana_cli.config.choices import DecodeMode
from sana_cli.config.networks import MAX_SIDE, SchedulerName
from sana_cli.config.published import aspect_ratio_bins, has_bins
from sana_cli.errors import ExitCode, SanaError
from sana_cli.request.init_image import (
    PictureFile,
    Source,
    default_size,
    nearest_multiple,
    other_side,
    source_of,
)

MAX_PROMPT = 20_000  # characters; models see the first 300 tokens
MAX_SEED = 2**64 - 1  # what torch.Generator takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to draw. None means the model's own default."""

    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    bins: bool = False  # draw at the nearest published aspect ratio, then resize to width x height
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # noise levels, both inclusive
    cache: float = 0.0  # as `FirstBlockCache.threshold`; 0: off
    scheduler: SchedulerName | None = None
    enhance: bool | None = None
    seed: int | None = None
    image: Path | None = None  # to begin with, instead of noise
    strength: float | None = None  # share of the steps that run on it
    mask: Path | None = None  # what of it is redrawn
    loras: tuple[tuple[Path, float], ...] = ()  # files, and how strongly each counts
    count: int = 1
    output: Path | None = None  # a .png file, a folder, or a pattern; None: the working folder
    output_is_folder: bool = (
        False  # it was written with a slash at its end: made if it is not there
    )
    output_is_pattern: bool = False  # it has fields, as `naming` fills them in
    overwrite: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    backend: Literal["auto", "native", "torchao", "quanto", "reference"] = "auto"
    decode: DecodeMode = "auto"
    tile: int | None = None  # pixels, a multiple of 32
    plan: str | None = None  # a name of `memory.plans.NAMED`; None: the fastest that fits
    branches_apart: bool = False  # only plans with guidance in two passes: sums in another order
    max_memory: int | None = None  # bytes; None: what is free
    max_memory_source: str = ""  # where it is set, if nobody typed it
    reading_room: int | None = None  # bytes that reading a picture may take; None: any number
    prompt_cache: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A request with every blank filled in for one model."""

    prompt: str
    negative_prompt: str
    width: int  # of the finished picture, pixels
    height: int
    drawn_width: int  # of what the model draws; differs with bins
    drawn_height: int
    steps: int
    guidance_scale: float
    guidance_interval: tuple[float, float]
    cache: float
    scheduler: SchedulerName
    flow_shift: float
    enhance: bool
    source: Source | None = None  # None: drawn from noise
    loras: tuple[Lora, ...] = ()

    @property
    def uses_two_branches(self) -> bool:
        """Classifier-free guidance: flow models at a scale above 1. Sprint embeds the scale."""
        return self.guidance_scale > 1 and self.scheduler != "scm"

    @property
    def steps_to_run(self) -> int:
        """All, or the last ones on a picture."""
        return self.steps - (self.source.first if self.source else 0)


def resolve(request: Request, checkpoint: Checkpoint) -> Settings:
    """Fill in the model's defaults; SanaError (usage) for what cannot be drawn."""
    defaults = checkpoint.defaults
    steps = defaults.steps if request.steps is None else request.steps
    guidance = defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale
    scheduler = request.scheduler or defaults.scheduler
    _require(
        request.backend in ("auto", "reference") or checkpoint.manifest is not None,
        f"{checkpoint.name} is not quantized, --backend {request.backend} has nothing to run",
        "quantize it first: sana quantize MODEL OUT",
    )
    _require_prompts(request)
    _require_names(request, checkpoint)
    _require_numbers(request, steps, guidance)
    _require(
        (scheduler == "scm") == checkpoint.transformer.guidance_embeds,
        f"scheduler {scheduler} does not fit {checkpoint.name}",
        "Sprint models need scm, all others flow-dpm or flow-euler",
    )
    source = source_of(
        request.image,
        strength=request.strength,
        mask=request.mask,
        steps=steps,
        scheduler=scheduler,
        room=request.reading_room,
    )
    native = defaults.native_size
    width, height = _finished_size(request, native, source.image if source else None)
    drawn_width, drawn_height = _drawn_size(width, height, native, bins=request.bins)
    return Settings(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width=width,
        height=height,
        drawn_width=drawn_width,
        drawn_height=drawn_height,
        steps=steps,
        guidance_scale=float(guidance),
        guidance_interval=request.guidance_interval,
        cache=request.cache,
        scheduler=scheduler,
        flow_shift=defaults.flow_shift,
        enhance=defaults.enhance if request.enhance is None else request.enhance,
        source=source,
        loras=open_loras(request.loras),
    )


def _require_prompts(request: Request) -> None:
    _require(bool(request.prompt.strip()), "the prompt is empty", 'say what to draw: "a cat"')
    for text in (request.prompt, request.negative_prompt):
        _require(
            len(text) <= MAX_PROMPT,
            f"a prompt of {len(text):,} characters is too long",
            f"at most {MAX_PROMPT:,}; models read about the first 300 words",
        )
        _require(_is_text(text), "the prompt is not valid text", "write it in UTF-8")


def _require_names(request: Request, checkpoint: Checkpoint) -> None:
    """Pictures tell what they were made from, and can hold text only."""
    named = {"model": checkpoint.folder, "--image": request.image, "--mask": request.mask}
    for what, path in named.items():
        _require(
            path is None or _is_text(str(path)),
            f"the name {path} ({what}) is not UTF-8",
            "rename it",
        )


def _require_numbers(request: Request, steps: int, guidance: float) -> None:
    _require(1 <= steps <= 1000, f"cannot draw in {steps} steps", "use 1 to 1000; 20 is usual")
    _require(
        0 <= guidance <= 100, f"guidance {guidance} is out of range", "use 1 (off) to about 10"
    )
    _require(
        0 <= request.cache <= 1,
        f"--cache {request.cache:g} is out of range",
        "use 0 (off) to 1; 0.1 is a beginning",
    )
    _require(
        1 <= request.count <= 10_000,
        f"cannot draw {request.count} pictures",
        "use --count 1 to 10000",
    )
    _require(
        request.seed is None or 0 <= request.seed <= MAX_SEED - request.count + 1,
        f"seed {request.seed} is out of range",
        f"use 0 to {MAX_SEED}",
    )


def _is_text(text: str) -> bool:
    """Whether it is encodable; bytes of another encoding arrive as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise SanaError(message, hint=hint, code=ExitCode.USAGE)


def _finished_size(request: Request, native: int, image: PictureFile | None) -> tuple[int, int]:
    """What was asked for; what was not is the model's, or that of the picture to begin with."""
    width, height, exact = request.width, request.height, not request.bins
    if image is None:
        usual = native, native
    elif width is not None:
        usual = width, other_side(width, image.width, image.height, exact=exact)
    elif height is not None:
        usual = other_side(height, image.height, image.width, exact=exact), height
    else:
        usual = default_size(image, native, exact=exact)
    return usual[0] if width is None else width, usual[1] if height is None else height


def _drawn_size(width: int, height: int, native: int, *, bins: bool) -> tuple[int, int]:
    for side in (width, height):
        _require(
            32 <= side <= MAX_SIDE,
            f"size {width}x{height} is out of range",
            f"use sides of 32 to {MAX_SIDE} pixels; this model is at its best near {native}",
        )
    if not bins:
        near = f"{nearest_multiple(width)}x{nearest_multiple(height)}"
        _require(
            width % 32 == 0 and height % 32 == 0,
            f"size {width}x{height} is not a multiple of 32",
            f"use {near}"
            + (", or --bins to draw at a published size and resize" if has_bins(native) else ""),
        )
        return width, height
    try:
        table = aspect_ratio_bins(native)
    except ValueError as error:
        raise SanaError(
            str(error),
            hint="omit --bins, and use sides that are multiples of 32",
            code=ExitCode.USAGE,
        ) from error
    closest = min(table, key=lambda ratio: abs(ratio - height / width))
    drawn_height, drawn_width = table[closest]
    return drawn_width, drawn_height


def seeds_of(request: Request) -> list[int]:
    """One seed a picture: S, S+1, ...; S is random unless given."""
    first = secrets.randbelow(2**32) if request.seed is None else request.seed
    return [first + i for i in range(request.count)]
