"""The settings that a picture carries. No torch."""

from collections.abc import Mapping
from typing import Any

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.decoder_files import OtherDecoder
from sana_cli.checkpoints.lora_file import Lora
from sana_cli.config.generation import FIELDS
from sana_cli.request.control import ControlPicture
from sana_cli.request.init_image import InitImage
from sana_cli.request.params import GenerationParams


def picture_settings(params: GenerationParams, checkpoint: Checkpoint) -> dict[str, Any]:
    """Collect the settings that decide a picture, by the keys of its file; None is not stored. The pipeline adds the device."""
    low, high = params.guidance_interval
    settings = {
        "prompt": params.prompt,
        "negative_prompt": params.negative_prompt,
        "seed": params.seed,
        "steps": params.steps,
        "guidance": params.guidance_scale,
        "guidance_interval": None if (low, high) == (0, 1) else f"{low:g}-{high:g}",
        "cache": params.cache or None,
        "pag": str(params.pag) if params.pag else None,
        "scheduler": params.scheduler,
        "flow_shift": params.flow_shift,
        "size": f"{params.width}x{params.height}",
        "drawn_size": f"{params.drawn_width}x{params.drawn_height}",
        "enhance": params.enhance,
        "model": checkpoint.name,
        "revision": checkpoint.revision or "",
        **_upscale_settings(params),
        **_control_settings(params.control),
        **_lora_settings(params.loras),
        **decoder_settings(params.decoder),
    }
    return settings | _others(params, settings)


def _others(params: GenerationParams, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the table that need no form of their own; what is off is left out."""
    plain = (f for f in FIELDS.values() if f.option.picture and f.option.picture not in settings)
    return {f.option.picture: value for f in plain if (value := getattr(params, f.name, None))}


def _init_image_settings(init: InitImage | None) -> dict[str, Any]:
    """Files by name and digest: `--from` needs the same ones."""
    if init is None:
        return {}
    told = {"image": init.image.name, "image_digest": init.image.digest}
    if init.mask is not None:
        told |= {"mask": init.mask.name, "mask_digest": init.mask.digest}
    return {**told, "strength": init.strength}


def _upscale_settings(params: GenerationParams) -> dict[str, Any]:
    """The original, and how a picture was enlarged. A given one that was only enlarged has no strength of its own."""
    up = params.upscale
    if up is None:
        return _init_image_settings(params.init_image)
    begin = _init_image_settings(up.init_image if up.draws else params.init_image)
    if not up.draws:
        del begin["strength"]
    told = {"upscale": up.factor, "upscale_strength": up.strength, "upscaled_from": up.size}
    return begin | told


def _control_settings(control: ControlPicture | None) -> dict[str, Any]:
    if control is None:
        return {}
    return {
        "control": control.image.name, "control_digest": control.image.digest,
        "control_scale": control.scale, "control_type": control.kind.value,
        "control_order": control.order.value,
        "control_hed_digest": control.hed.digest if control.hed else None,
    }  # fmt: skip


def _lora_settings(loras: tuple[Lora, ...]) -> dict[str, Any]:
    if not loras:
        return {}
    return {"loras": [str(l) for l in loras], "lora_digests": [l.file.digest for l in loras]}


def decoder_settings(decoder: OtherDecoder | None) -> dict[str, Any]:
    """The settings that name another decoder than the model's own, None for that one."""
    return {
        "decoder": decoder.name if decoder else None,
        "decoder_digest": decoder.digest if decoder else None,
    }
