"""`ForeignSettings`: what another program stored in a picture, by our names where it means the same here. No torch.

Such pictures cannot be repeated here, since models, samplers and noise differ. Their prompts and numbers can be used.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

_LARGEST_SEED = 2**64 - 1
_LORA = re.compile(r"\s*<(?:lora|lyco|hypernet):([^<>:]+)[^<>]*>")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignSettings:
    """Settings of a picture that another program drew, as far as it stored them."""

    program: str
    prompt: str
    negative_prompt: str
    size: str  # "512x512", of the drawn picture
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    upscale: float | None = None  # factor of a second drawing, which `size` is not of
    upscale_strength: float | None = None
    model: str = ""  # by its name there
    others: Mapping[str, str] = field(default_factory=dict)  # by their names there

    @property
    def loras(self) -> list[str]:
        """Return the names of LoRAs that the prompt asks for in the web UI's syntax: `<lora:name:1>`."""
        return _LORA.findall(self.prompt)

    @property
    def plain_prompt(self) -> str:
        """Return the prompt without what names LoRAs."""
        return _LORA.sub("", self.prompt).strip()


def seed_of(value: object) -> int | None:
    """Read a seed from a number or its text; None for what is none."""
    seed = whole_of(value)
    return seed if seed is not None and 0 <= seed <= _LARGEST_SEED else None


def whole_of(value: object) -> int | None:
    """Read a whole number from a number or its text."""
    with suppress(ValueError, OverflowError):
        if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,20}\s*", value):
            return int(value)
        if type(value) is int or (isinstance(value, float) and value.is_integer()):
            return int(value)
    return None


def number_of(value: object) -> float | None:
    """Read a finite number from a number or its text."""
    with suppress(ValueError, OverflowError):
        number = float(value) if type(value) in (int, float) or isinstance(value, str) else None  # type: ignore[arg-type]
        return number if number is not None and isfinite(number) else None
    return None


def text_of(value: object) -> str:
    """Return a text; "" for anything else."""
    return value if isinstance(value, str) else ""


def shown(value: Any) -> str:
    """Format a value of JSON for people, on one line."""
    return value if isinstance(value, str) else str(value)
