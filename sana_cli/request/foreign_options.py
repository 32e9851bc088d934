"""Options for a picture that another program drew: what means the same here, and what is left out. No torch."""

import re
from dataclasses import dataclass
from math import isfinite

from sana_cli.config.choices import MAX_SIDE
from sana_cli.config.generation import FIELDS, GenerationOptions
from sana_cli.config.variants import find_variant
from sana_cli.images.foreign_settings import ForeignSettings
from sana_cli.request.init_image import nearest_multiple
from sana_cli.request.options import is_text

_MOST_NAMES = 8  # of settings that a notice lists


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignPicture:
    """The options that draw something like another program's picture; `notice` says how far they go."""

    options: GenerationOptions
    notice: str


def options_of_foreign(foreign: ForeignSettings, name: str) -> ForeignPicture:
    """Build options from another program's settings in the file `name`.

    Prompts, size, seed, steps and guidance mean the same to Sana, its own models too. Samplers, other models and their
    parts do not.
    """
    width, height, size = _size(foreign.size)
    variant = find_variant(_without_hash(foreign.model)) if foreign.model else None
    steps, guidance = _within("steps", foreign.steps), _within("guidance_scale", foreign.guidance)
    upscale, strength = _second_drawing(foreign, max(width, height))
    options = GenerationOptions(
        prompt=_text(foreign.plain_prompt),
        negative_prompt=_text(foreign.negative_prompt) or None,
        model=variant.alias if variant else None,
        seed=foreign.seed,
        steps=None if steps is None else int(steps),
        guidance_scale=guidance,
        width=width,
        height=height,
        upscale=upscale,
        upscale_strength=strength,
        wildcards=False,
        sources={"model": name} if variant else {},
    )
    taken = [
        "its prompt",
        *(["negative prompt"] if options.negative_prompt else []),
        f"size {size}",
        *(f"{word} {value:g}" if word != "seed" else f"seed {value}" for word, value in (
            ("seed", options.seed), ("steps", options.steps), ("guidance", options.guidance_scale),
            ("upscale", options.upscale), ("upscale strength", options.upscale_strength),
        ) if value is not None),
    ]  # fmt: skip
    left = [
        *(["model"] if foreign.model and not variant else []),
        *(["steps"] if foreign.steps is not None and steps is None else []),
        *(["guidance"] if foreign.guidance is not None and guidance is None else []),
        *(["upscale"] if foreign.upscale is not None and upscale is None else []),
        *(
            ["upscale strength"]
            if foreign.upscale_strength is not None and strength is None
            else []
        ),
        *(f"LoRA {lora}" for lora in foreign.loras),
        *foreign.others,
    ]
    more = f" and {len(left) - _MOST_NAMES} more" if len(left) > _MOST_NAMES else ""
    omitted = f"; left out: {', '.join(left[:_MOST_NAMES])}{more}" if left else ""
    notice = f"{name} was drawn by {foreign.program}, so this is another picture with {', '.join(taken)}{omitted}"
    return ForeignPicture(options=options, notice=notice)


def command_words(picture: ForeignPicture) -> list[str]:
    """Return the words of a command that draws something similar."""
    o = picture.options
    options = {
        "--model": o.model, "--negative": o.negative_prompt, "--size": f"{o.width}x{o.height}",
        "--steps": o.steps, "--guidance": o.guidance_scale, "--seed": o.seed,
        "--upscale": o.upscale, "--upscale-strength": o.upscale_strength,
    }  # fmt: skip
    said = [
        word
        for flag, value in options.items()
        if value is not None
        for word in (flag, f"{value:g}" if isinstance(value, float) else str(value))
    ]
    prompt = o.prompt or ""
    if prompt.startswith("-"):  # only after "--" it is no option
        return ["sana", "generate", *said, "--", prompt]
    return ["sana", "generate", prompt, *said]


def _size(text: str) -> tuple[int, int, str]:
    """Return sides that Sana can draw, near those of "500x700", and how the notice says it."""
    sides = [int(side) for side in text.split("x")]
    near = [min(MAX_SIDE, nearest_multiple(side)) for side in sides]
    said = f"{near[0]}x{near[1]}"
    return near[0], near[1], said if near == sides else f"{said} (there {text})"


def _second_drawing(foreign: ForeignSettings, side: int) -> tuple[float | None, float | None]:
    """Return factor and strength of a second drawing, as far as they can be; `side`: the longest one of the first."""
    upscale, strength = _within("upscale", foreign.upscale), foreign.upscale_strength
    if upscale is None or upscale * side > MAX_SIDE:
        return None, None
    return upscale, strength if strength is not None and 0 < strength <= 1 else None


def _within(name: str, value: float | None) -> float | None:
    low, high = FIELDS[name].option.limits or (0, 0)
    return value if value is not None and isfinite(value) and low <= value <= high else None


def _text(text: str) -> str:
    return text if is_text(text) else text.encode(errors="replace").decode().replace("\0", " ")


def _without_hash(model: str) -> str:
    """Return a model's name without the digest that some programs add: `name [1a2b3c]`."""
    return re.sub(r"\s*\[[0-9a-f]+\]$", "", model)
