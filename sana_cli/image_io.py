"""Pictures on disk: pixels from tensors, and settings in PNG text chunks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional as F

from sana_cli.errors import SanaError
from sana_cli.output import new_file

SETTINGS_KEY = "sana"  # the PNG chunk with everything, as JSON


def to_image(decoded: Tensor) -> Image.Image:
    """Decoder output (1, 3, H, W), nominally -1..1 -> an RGB picture."""
    pixels = (decoded[0].float() / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)  # (H, W, 3)
    return Image.fromarray((pixels * 255).round().to(torch.uint8).cpu().numpy())


def resize_and_crop(decoded: Tensor, *, height: int, width: int) -> Tensor:
    """Fill (height, width) keeping the aspect ratio, cut the rest evenly; bilinear as published."""
    H, W = decoded.shape[-2:]
    if (H, W) == (height, width):
        return decoded
    ratio = max(height / H, width / W)
    size = (int(H * ratio), int(W * ratio))
    resized = F.interpolate(decoded.float(), size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return resized[..., top : top + height, left : left + width]


def save_png(
    image: Image.Image, path: Path, *, settings: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Write a PNG that tells how it was made: a `sana` JSON chunk, one chunk a setting, and the
    `parameters` chunk that other tools read. Errors as in `output.new_file`.
    """
    info = PngInfo()
    info.add_itxt("parameters", _parameters_chunk(settings))
    for key, value in settings.items():
        info.add_itxt(key, value if isinstance(value, str) else json.dumps(value))
    info.add_itxt(SETTINGS_KEY, json.dumps(dict(settings), ensure_ascii=False))
    with new_file(path, overwrite=overwrite) as file:
        image.save(file, format="PNG", pnginfo=info)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a picture that `save_png` wrote; SanaError if there are none."""
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(SETTINGS_KEY)
    except OSError as error:
        raise SanaError(f"cannot read {path} as a picture: {error}") from error
    if not text:
        raise SanaError(f"{path} carries no settings of sana")
    return dict(json.loads(text))


def _parameters_chunk(settings: Mapping[str, Any]) -> str:
    """The de-facto standard text of other tools: prompt, negative prompt, then `key: value` pairs."""
    lines = [str(settings["prompt"])]
    if settings.get("negative_prompt"):
        lines.append(f"Negative prompt: {settings['negative_prompt']}")
    named = {
        "Steps": "steps", "Sampler": "scheduler", "CFG scale": "guidance", "Seed": "seed",
        "Size": "size", "Model": "model", "Version": "version",
    }  # fmt: skip
    lines.append(", ".join(f"{title}: {settings[key]}" for title, key in named.items()))
    return "\n".join(lines)
