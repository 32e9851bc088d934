"""Checks of what a program gives to `SanaPipeline`: names, callbacks, prompts, parameters, latents."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from torch import Tensor

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.generation import FIELDS, unknown_option
from sana_cli.errors import usage_error
from sana_cli.request.params import GenerationParams
from sana_cli.request.runtime import COMMANDS_OWN, RuntimeOptions
from sana_cli.text import shortened

_ELSEWHERE = {each.name: "give it to SanaPipeline.open" for each in fields(RuntimeOptions)}
_ELSEWHERE |= COMMANDS_OWN
OPTIONS = tuple(
    name for name, field in FIELDS.items() if field.option.flags and name not in _ELSEWHERE
)  # of one picture
CALLBACKS = ("on_step", "on_preview")  # of a call


def require_options(options: Iterable[str], *more: str) -> None:
    """Raise SanaError (usage) for a name that is no option of one picture; `more` names what else the call takes."""
    for name in options:
        if name in _ELSEWHERE:
            raise usage_error(f"{name} is not an option of one picture", _ELSEWHERE[name])
        if name not in FIELDS:
            raise unknown_option(name, (*OPTIONS, *more))


def require_unchanged(options: Iterable[str]) -> None:
    """Raise SanaError (usage) for options of a picture whose parameters are resolved already."""
    for name in options:
        raise usage_error(
            f"{name} cannot change parameters that are resolved",
            f"give it before: pipe.params(prompt, {name}=...)",
        )


def require_functions(**callbacks: object) -> None:
    """Raise SanaError (usage) for a callback that cannot be called."""
    for name, callback in callbacks.items():
        if callback is not None and not callable(callback):
            raise usage_error(f"{name} cannot be {callback!r}", "it should be a function")


def callbacks_from(options: dict[str, Any]) -> dict[str, Any]:
    """Take the callbacks out of what a call was given. Raises SanaError (usage) for one that cannot be called."""
    callbacks = {name: options.pop(name) for name in CALLBACKS if name in options}
    require_functions(**callbacks)
    return callbacks


def require_prompts(prompts: object) -> None:
    """Raise SanaError (usage) for what is not several prompts; a single text would be drawn letter by letter."""
    if isinstance(prompts, str | GenerationParams) or not isinstance(prompts, Iterable):
        raise usage_error(
            f"stream cannot draw {shortened(repr(prompts))}",
            'give a list of prompts: pipe.stream(["a cat", "a dog"])',
        )


def require_params(params: object) -> None:
    """Raise SanaError (usage) for anything but parameters, such as a prompt."""
    if not isinstance(params, GenerationParams):
        raise usage_error(
            f"{shortened(repr(params))} cannot be the parameters of a picture",
            "make them: pipe.params(prompt, ...)",
        )


def require_latents(latents: object, params: GenerationParams, checkpoint: Checkpoint) -> None:
    """Raise SanaError (usage) for anything but latents of a picture with these parameters."""
    vae = checkpoint.vae
    sides = (params.drawn_height // vae.downscale, params.drawn_width // vae.downscale)
    wanted = (1, vae.latent_channels, *sides)
    if not isinstance(latents, Tensor) or tuple(latents.shape) != wanted:
        found = f"of shape {tuple(latents.shape)}" if isinstance(latents, Tensor) else "no tensor"
        raise usage_error(
            f"the latents are {found}, the picture's have {wanted}",
            "give those of pipe.denoise(params), with the same params",
        )
