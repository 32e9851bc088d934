"""Read `parameters`, the text of AUTOMATIC1111's web UI, which SD.Next, Forge and others write too. No torch."""

import json
import re
from contextlib import suppress

from sana_cli.images.foreign_settings import ForeignSettings, number_of, seed_of, whole_of

_LARGEST = 2**16  # characters that are looked at
_PAIR = re.compile(r'\s*(\w[\w \-/]{0,60}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"\d{1,5}x\d{1,5}")
# By the version that a program writes: its own, or that of the web UI.
_VERSIONS = (
    (r"f\d", "Forge"), (r"v?\d+\.\d+", "AUTOMATIC1111's web UI"), (r"stable-diffusion\.cpp", "stable-diffusion.cpp"),
    (r"ComfyUI", "ComfyUI"), (r"Fooocus", "Fooocus"),
)  # fmt: skip


def settings_of_parameters(text: str, size: str) -> ForeignSettings | None:
    """Read prompt, negative prompt, and pairs on the last line; None where there are none. `size`: of the picture."""
    *lines, last = text[:_LARGEST].strip().split("\n")
    pairs = _pairs(last)
    if len(pairs) < 3:  # as the web UI decides whether there are any
        return None
    prompts: tuple[list[str], list[str]] = [], []
    place = 0
    for line in lines:
        if line.strip().startswith("Negative prompt:"):
            place, line = 1, line.strip().removeprefix("Negative prompt:")
        prompts[place].append(line.strip())
    prompt, negative = ("\n".join(part) for part in prompts)
    program = _program(pairs)
    stored_size = pairs.pop("Size", "")
    steps = whole_of(pairs.pop("Steps", None))
    upscale, strength = _second_drawing(pairs, steps)
    return ForeignSettings(
        program=program,
        prompt=prompt,
        negative_prompt=negative,
        size=stored_size if _SIZE.fullmatch(stored_size) else size,
        seed=seed_of(pairs.pop("Seed", None)),
        steps=steps,
        guidance=number_of(pairs.pop("CFG scale", None)),
        upscale=upscale,
        upscale_strength=strength,
        model=pairs.pop("Model", ""),
        others=pairs,
    )


def _second_drawing(pairs: dict[str, str], steps: int | None) -> tuple[float | None, float | None]:
    """Take factor and strength of "hires fix" from the pairs; None where there is none. What differs here stays there."""
    upscale = number_of(pairs.get("Hires upscale"))
    if upscale is None or upscale <= 1:
        return None, None
    del pairs["Hires upscale"]
    if whole_of(pairs.get("Hires steps")) in (0, steps):
        pairs.pop("Hires steps", None)
    return upscale, number_of(pairs.pop("Denoising strength", None))


def _program(pairs: dict[str, str]) -> str:
    if pairs.get("App"):
        return pairs["App"]
    version = pairs.get("Version", "")
    known = (name for pattern, name in _VERSIONS if re.match(pattern, version))
    return next(known, "another program (parameters)")


def _pairs(line: str) -> dict[str, str]:
    found, place = {}, 0
    while match := _PAIR.match(line, place):
        value = match[2].strip()
        if value.startswith('"'):
            with suppress(ValueError):
                value = str(json.loads(value))
        found[match[1]] = value
        place = match.end()
        if place >= len(line):
            break
    return found
