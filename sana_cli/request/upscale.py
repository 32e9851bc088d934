"""`--upscale`: a picture is drawn, enlarged and redrawn a little; a given picture is only enlarged and redrawn. No torch.

Known elsewhere as "hires fix". Both drawings are described by parameters of their own (`GenerationParams.passes`).
"""

from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path

from sana_cli.config.choices import MAX_SIDE, SchedulerName, require_strength
from sana_cli.config.generation import GenerationOptions, limits_of
from sana_cli.errors import require, usage_error
from sana_cli.request.init_image import (
    InitImage,
    PictureFile,
    first_step,
    nearest_multiple,
    no_step,
)

STRENGTH = 0.35  # keeps what is there, and draws the details that a larger picture has room for
_NOT_DRAWN_YET = Path("(the first drawing)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upscale:
    """A picture that is enlarged, and how it is redrawn then; sizes in pixels."""

    factor: float
    strength: float
    first: int  # the step that the redrawing begins with
    width: int  # of the picture before it is enlarged
    height: int
    drawn_width: int  # differs with bins
    drawn_height: int
    draws: bool  # first; False: a given picture is enlarged
    init_image: InitImage | None = None  # that the first drawing begins with

    def __str__(self) -> str:
        return f"{self.factor:g}"

    @property
    def size(self) -> str:
        """The size before, as pictures store it."""
        return f"{self.width}x{self.height}"

    @property
    def begins_with(self) -> InitImage:
        """The picture that the redrawing begins with; its pixels are there once they are drawn."""
        picture = PictureFile(path=_NOT_DRAWN_YET, digest="", width=self.width, height=self.height)
        return InitImage(image=picture, strength=self.strength, first=self.first)


def factor_of(options: GenerationOptions) -> float | None:
    """Return the factor that pictures are enlarged by; None: they are not. SanaError (usage) for one that cannot be."""
    o = options
    if o.upscale is None:
        if o.upscale_strength is not None and "upscale_strength" not in o.sources:
            raise usage_error("--upscale-strength needs a factor", "give one: --upscale 2")
        return None
    low, high = limits_of("upscale")
    require(
        isfinite(o.upscale) and low <= o.upscale <= high,
        f"--upscale {o.upscale:g} is out of range",
        f"use more than {low} (off) to {high}; 2 doubles both sides",
    )
    return None if o.upscale == 1 else float(o.upscale)


def strength_of(options: GenerationOptions) -> float:
    """Return how much of an enlarged picture is redrawn. SanaError (usage) for a strength that is none."""
    strength = STRENGTH if options.upscale_strength is None else options.upscale_strength
    return require_strength(strength, "--upscale-strength")


def step_of(strength: float, steps: int, scheduler: SchedulerName) -> int:
    """Return the step that the redrawing begins with. SanaError (usage) where none would run."""
    first = first_step(strength, steps, scheduler)
    if first == steps:
        raise no_step(strength, steps, "--upscale-strength")
    return first


def only_enlarges(options: GenerationOptions) -> bool:
    """Check whether a given picture takes the place of the first drawing: nothing says that it be redrawn before."""
    o = options
    return o.image is not None and o.strength is None and o.mask is None


def enlarged(width: int, height: int, factor: float) -> tuple[int, int]:
    """The nearest size that can be drawn. SanaError (usage) where that is too large, or no larger."""
    sides = width * factor, height * factor
    require(
        max(sides) <= MAX_SIDE,
        f"--upscale {factor:g} of {width}x{height} makes {sides[0]:.0f}x{sides[1]:.0f}, which is too large",
        f"sides of up to {MAX_SIDE} pixels can be drawn: use a smaller --upscale or --size",
    )
    size = nearest_multiple(sides[0]), nearest_multiple(sides[1])
    require(
        size[0] * size[1] > width * height,
        f"--upscale {factor:g} of {width}x{height} enlarges nothing: sides are multiples of 32",
        "use a larger factor: --upscale 2",
    )
    return size


def seed_of_redrawing(seed: int) -> int:
    """The seed of the second drawing's noise: it follows from the first one's, and is another noise."""
    return int.from_bytes(sha256(f"upscale {seed}".encode()).digest()[:8], "big")


def notices(upscale: Upscale, width: int, height: int) -> list[str]:
    """List a notice where the size is not just the factor's."""
    exact = upscale.width * upscale.factor, upscale.height * upscale.factor
    if exact == (width, height) or not upscale.draws:
        return []
    return [
        f"--upscale {upscale.factor:g} of {upscale.size} draws {width}x{height}: sides are multiples of 32"
    ]
