"""Parameters of a picture: options resolved for one model and checked before any work. No torch."""

import secrets
from dataclasses import dataclass, replace
from typing import Any

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.decoder_files import OtherDecoder
from sana_cli.checkpoints.find_decoder import find_decoder
from sana_cli.checkpoints.lora_file import Lora, open_loras
from sana_cli.config.choices import (
    MAX_SIDE,
    Pag,
    Scheduler,
    SchedulerName,
    parse_bytes,
    parse_interval,
    parse_pag,
    require_length,
    size_of_aspect,
    split_scale,
)
from sana_cli.config.generation import (
    FIELDS,
    GenerationOptions,
    limits_of,
    uses_hed,
    uses_wildcards,
)
from sana_cli.config.published import aspect_ratio_bins, has_bins
from sana_cli.errors import require, usage_error
from sana_cli.files import local_path
from sana_cli.request.control import ControlPicture, control_of
from sana_cli.request.init_image import (
    InitImage,
    PictureFile,
    default_size,
    init_image_of,
    nearest_multiple,
    other_side,
)
from sana_cli.request.options import is_text, lora_paths
from sana_cli.request.upscale import (
    Upscale,
    enlarged,
    factor_of,
    only_enlarges,
    seed_of_redrawing,
    step_of,
    strength_of,
)
from sana_cli.request.wildcards import chosen_prompt
from sana_cli.system.memory import free_bytes
from sana_cli.system.precision import NamedDevice

MAX_SEED = limits_of("seed")[1]  # what torch.Generator takes


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams:
    """Everything that decides the pixels of one picture by one model; nothing is left open."""

    prompt: str
    negative_prompt: str
    seed: int  # of the noise
    template: str | None = None  # that became the prompt by choices
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
    pag: Pag | None = None  # perturbed-attention guidance
    init_image: InitImage | None = None  # None: drawn from noise
    control: ControlPicture | None = None  # that a ControlNet follows
    loras: tuple[Lora, ...] = ()
    decoder: OtherDecoder | None = None  # None: the model's own
    upscale: Upscale | None = None  # None: drawn once, in its size

    @property
    def uses_two_branches(self) -> bool:
        """Classifier-free guidance: flow models at a scale above 1. Sprint embeds the scale."""
        return self.guidance_scale > 1 and self.scheduler != "scm"

    @property
    def steps_to_run(self) -> int:
        """The number of steps that run: all, or fewer when an original picture is redrawn; with upscale of both drawings."""
        if self.upscale is not None:
            return sum(drawing.steps_to_run for drawing in self.passes)
        return self.steps - (self.init_image.first if self.init_image else 0)

    @property
    def passes(self) -> "tuple[GenerationParams, ...]":
        """The drawings that make the picture, one after the other, each without upscale: one, or two with it.

        The second begins with the first, whose pixels its `init_image` still lacks (`begun_with`).
        """
        up = self.upscale
        last = replace(self, upscale=None)
        if up is None or not up.draws:
            return (last,)
        first = replace(
            last, width=up.width, height=up.height, drawn_width=up.drawn_width,
            drawn_height=up.drawn_height, init_image=up.init_image,
        )  # fmt: skip
        second = replace(last, seed=seed_of_redrawing(self.seed), init_image=up.begins_with)
        return first, second

    def begun_with(self, picture: PictureFile) -> "GenerationParams":
        """The same drawing, of a picture that is there."""
        assert self.init_image is not None
        return replace(self, init_image=replace(self.init_image, image=picture))


def resolve(options: GenerationOptions, checkpoint: Checkpoint) -> GenerationParams:
    """Fill in the model's defaults and, where none is given, a random seed; SanaError (usage) for what cannot be drawn."""
    o, defaults = options, checkpoint.defaults
    _require_sane_numbers(o)
    steps = defaults.steps if o.steps is None else o.steps
    guidance = defaults.guidance_scale if o.guidance_scale is None else o.guidance_scale
    cache, negative = o.cache or 0.0, o.negative_prompt or ""
    seed = secrets.randbelow(2**32) if o.seed is None else o.seed
    prompt, template = _chosen_prompt(o, seed)
    scheduler: SchedulerName = Scheduler(o.scheduler).value if o.scheduler else defaults.scheduler
    _require_prompts(prompt, negative)
    _require_numbers(o, steps, guidance, cache)
    require(
        (scheduler == "scm") == checkpoint.transformer.guidance_embeds,
        f"scheduler {scheduler} does not fit {checkpoint.name}",
        "Sprint models need scm, all others flow-dpm or flow-euler",
    )
    begin = _init_image(o, steps, scheduler)
    control = _control(o, checkpoint)
    shape = begin.image if begin else control.image if control else None
    sizes, upscale = _sizes(o, defaults.native_size, shape, begin, steps, scheduler)
    width, height, drawn_width, drawn_height = sizes
    init_image = None if upscale is not None and upscale.draws else begin
    return GenerationParams(
        prompt=prompt,
        negative_prompt=negative,
        seed=seed,
        template=template,
        width=width,
        height=height,
        drawn_width=drawn_width,
        drawn_height=drawn_height,
        steps=steps,
        guidance_scale=float(guidance),
        guidance_interval=parse_interval(o.guidance_interval or "0-1"),
        cache=cache,
        pag=_pag(o, checkpoint, scheduler, cache),
        scheduler=scheduler,
        flow_shift=defaults.flow_shift,
        enhance=defaults.enhance if o.enhance is None else o.enhance,
        init_image=init_image,
        control=control,
        loras=open_loras(lora_paths(o.loras or ())),
        decoder=find_decoder(o.decoder, checkpoint),
        upscale=upscale,
    )


def resolve_all(options: GenerationOptions, checkpoint: Checkpoint) -> list[GenerationParams]:
    """Resolve the parameters of each picture, with seeds S, S+1, ...; errors as for `resolve`."""
    first = resolve(options, checkpoint)
    others = range(first.seed + 1, first.seed + count_of(options))
    if uses_wildcards(options):  # each seed makes choices of its own
        return [first, *(resolve(replace(options, seed=seed), checkpoint) for seed in others)]
    return [first, *(replace(first, seed=seed) for seed in others)]


def _chosen_prompt(o: GenerationOptions, seed: int) -> tuple[str, str | None]:
    """Return the prompt, and the template that it comes from if choices were made in it."""
    if uses_wildcards(o):
        _require_prompts(o.prompt or "", "")
    if o.template:
        _require_prompts(o.template, "")
    return chosen_prompt(o, seed)


def count_of(options: GenerationOptions) -> int:
    """The number of requested pictures."""
    return 1 if options.count is None else options.count


def _pag(
    o: GenerationOptions, checkpoint: Checkpoint, scheduler: SchedulerName, cache: float
) -> Pag | None:
    with o.naming_source_of("pag"):
        pag = parse_pag(o.pag, checkpoint.transformer.num_layers) if o.pag else None
    if pag is None:
        return None
    require(
        scheduler != "scm",
        f"--pag does not fit {checkpoint.name}: Sprint models draw without guidance branches",
        "omit --pag, or switch it off: --pag 0",
    )
    require(not cache, "give --pag or --cache, not both", "omit one; 0 switches it off: --pag 0")
    return pag


def _init_image(o: GenerationOptions, steps: int, scheduler: SchedulerName) -> InitImage | None:
    """Open the picture to begin with, or the one that is enlarged as it is."""
    enlarges = factor_of(o) is not None and only_enlarges(o)
    return init_image_of(
        _picture(o.image), strength=strength_of(o) if enlarges else o.strength,
        mask=_picture(o.mask), steps=steps, scheduler=scheduler,
        room=_room(o) if o.image is not None else None,
        option="--upscale-strength" if enlarges else "--strength",
    )  # fmt: skip


def _control(o: GenerationOptions, checkpoint: Checkpoint) -> ControlPicture | None:
    """Open the picture to follow; its scale is `control_scale`, or stands after its name."""
    picture, scale = o.control, None
    if isinstance(picture, str):
        picture, scale = split_scale(picture)
    if o.control_hed is not None and "control_hed" not in o.sources:  # typed, not a setting
        require(
            uses_hed(o),
            "--control-hed needs a picture whose lines HED finds",
            "add --control FILE --control-type hed, or scribble",
        )
    return control_of(
        _picture(picture), scale=scale if o.control_scale is None else o.control_scale,
        kind=o.control_type, order=o.control_order, hed=o.control_hed, checkpoint=checkpoint,
        room=_room(o) if o.control is not None else None,
    )  # fmt: skip


def _room(o: GenerationOptions) -> int | None:
    """The bytes that a picture may take while it is read: what is free, or may be used; None where nobody knows."""
    asked = parse_bytes(o.max_memory) if o.max_memory else None
    known = [n for n in (asked, free_bytes(NamedDevice("cpu"))) if n is not None]
    return min(known, default=None)


def _picture(said: Any) -> Any:
    """Turn the name of a file into a path; a path or a picture in memory, from Python, stays as it is."""
    return local_path(said) if isinstance(said, str) else said


def _require_sane_numbers(o: GenerationOptions) -> None:
    """Whole numbers of a file may have hundreds of digits, more than arithmetic with fractions takes."""
    for name, field in FIELDS.items():
        value = getattr(o, name)
        if isinstance(value, int) and abs(value) >= 2**64:
            digits = f"{str(value)[:12]}... of {len(str(abs(value)))} digits"
            raise usage_error(f"{field.word} {digits} is out of range", "use a smaller number")


def _require_prompts(prompt: str, negative: str) -> None:
    require(bool(prompt.strip()), "the prompt is empty", 'say what to draw: "a cat"')
    for text in (prompt, negative):
        require_length(text)
        require(is_text(text), "the prompt is not valid text", "write it in UTF-8")


def _require_numbers(o: GenerationOptions, steps: int, guidance: float, cache: float) -> None:
    count = count_of(o)
    for name, value, problem, hint in (
        ("steps", steps, f"cannot draw in {steps} steps", "use {} to {}; 20 is usual"),
        ("guidance_scale", guidance, f"guidance {guidance} is out of range", "use 1 (off) to about 10"),
        ("cache", cache, f"--cache {cache:g} is out of range", "use {} (off) to {}; 0.1 is a beginning"),
        ("count", count, f"cannot draw {count} pictures", "use --count {} to {}"),
    ):  # fmt: skip
        low, high = limits_of(name)
        require(low <= value <= high, problem, hint.format(low, high))
    require(
        o.seed is None or 0 <= o.seed <= MAX_SEED - count + 1,
        f"seed {o.seed} is out of range",
        f"use 0 to {MAX_SEED}",
    )


def _sizes(
    o: GenerationOptions, native: int, shape: PictureFile | None, begin: InitImage | None,
    steps: int, scheduler: SchedulerName,
) -> tuple[tuple[int, int, int, int], Upscale | None]:  # fmt: skip
    """Width and height of the finished picture, those that are drawn, and how it is enlarged to them."""
    factor = factor_of(o)
    draws = factor is None or not only_enlarges(o)
    bins = bool(o.bins) and draws
    width, height = _finished_size(o, native, shape, exact=draws and not bins)
    drawn = _drawn_size(width, height, native, bins=bins) if draws else (width, height)
    if factor is None:
        return (width, height, *drawn), None
    large = enlarged(*drawn, factor)
    finished = (round(width * factor), round(height * factor)) if bins else large
    strength = strength_of(o)
    first = step_of(strength, steps, scheduler)
    upscale = Upscale(
        factor=factor, strength=strength, first=first, width=width, height=height,
        drawn_width=drawn[0], drawn_height=drawn[1], draws=draws,
        init_image=begin if draws else None,
    )  # fmt: skip
    return (*finished, *large), upscale


def _finished_size(
    o: GenerationOptions, native: int, image: PictureFile | None, *, exact: bool
) -> tuple[int, int]:
    """Choose width and height, in pixels. A side that was not requested follows the original picture, else the model.

    `exact`: in multiples of 32, and not larger than the model draws.
    """
    width, height = o.width, o.height
    if o.aspect:
        width, height = size_of_aspect(o.aspect, native)
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
        require(
            32 <= side <= MAX_SIDE,
            f"size {width}x{height} is out of range",
            f"use sides of 32 to {MAX_SIDE} pixels; this model is at its best near {native}",
        )
    if not bins:
        near = f"{nearest_multiple(width)}x{nearest_multiple(height)}"
        require(
            width % 32 == 0 and height % 32 == 0,
            f"size {width}x{height} is not a multiple of 32",
            f"use {near}"
            + (", or --bins to draw at a published size and resize" if has_bins(native) else ""),
        )
        return width, height
    try:
        table = aspect_ratio_bins(native)
    except ValueError as error:
        hint = "omit --bins, and use sides that are multiples of 32"
        raise usage_error(str(error), hint) from error
    closest = min(table, key=lambda ratio: abs(ratio - height / width))
    drawn_height, drawn_width = table[closest]
    return drawn_width, drawn_height
