"""The settings that a picture carries. No torch."""

from typing import Any

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.lora_file import Lora
from sana_cli.request.init_image import Source
from sana_cli.request.params import Settings


def picture_settings(settings: Settings, checkpoint: Checkpoint, seed: int) -> dict[str, Any]:
    """What decides a picture, as it is told in its file; None is not told. Where and when it was drawn is added by the run."""
    low, high = settings.guidance_interval
    return {
        "prompt": settings.prompt,
        "negative_prompt": settings.negative_prompt,
        "seed": seed,
        "steps": settings.steps,
        "guidance": settings.guidance_scale,
        "guidance_interval": None if (low, high) == (0, 1) else f"{low:g}-{high:g}",
        "cache": settings.cache or None,
        "scheduler": settings.scheduler,
        "flow_shift": settings.flow_shift,
        "size": f"{settings.width}x{settings.height}",
        "drawn_size": f"{settings.drawn_width}x{settings.drawn_height}",
        "enhance": settings.enhance,
        "model": checkpoint.name,
        "revision": checkpoint.revision or "",
        **_source_settings(settings.source),
        **_lora_settings(settings.loras),
    }


def _source_settings(source: Source | None) -> dict[str, Any]:
    """Files by name and digest: `--from` needs the same ones."""
    if source is None:
        return {}
    told = {"image": source.image.name, "image_digest": source.image.digest}
    if source.mask is not None:
        told |= {"mask": source.mask.name, "mask_digest": source.mask.digest}
    return {**told, "strength": source.strength}


def _lora_settings(loras: tuple[Lora, ...]) -> dict[str, Any]:
    if not loras:
        return {}
    return {"loras": [str(l) for l in loras], "lora_digests": [l.file.digest for l in loras]}
