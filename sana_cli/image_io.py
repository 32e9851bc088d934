"""Pictures on disk: pixels from tensors, settings in PNG text chunks, and writes that lose nothing.

A file appears whole or not at all, and never replaces another unless asked to.
"""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional as F

from sana_cli.errors import ExitCode, SanaError

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
    `parameters` chunk that other tools read.

    Raises SanaError when the folder cannot be written or the file is there and `overwrite` is not.
    """
    info = PngInfo()
    info.add_itxt("parameters", _parameters_chunk(settings))
    for key, value in settings.items():
        info.add_itxt(key, value if isinstance(value, str) else json.dumps(value))
    info.add_itxt(SETTINGS_KEY, json.dumps(dict(settings), ensure_ascii=False))
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            image.save(file, format="PNG", pnginfo=info)
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files
        _publish(temporary, path, overwrite=overwrite)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give a finished file its name; without `overwrite` this fails if the name is taken."""
    if overwrite:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)  # atomic, and refuses to replace
    except FileExistsError as error:
        raise already_exists(path) from error
    except OSError:  # a file system without hard links
        try:
            path.open("xb").close()
        except FileExistsError as error:
            raise already_exists(path) from error
        temporary.replace(path)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def already_exists(path: Path) -> SanaError:
    return SanaError(
        f"{path} exists", hint="choose another --output, or --force", code=ExitCode.USAGE
    )


def _unwritable(path: Path, error: OSError) -> SanaError:
    return SanaError(
        f"cannot write {path}: {error.strerror or error}",
        hint="choose a folder that exists, is writable and has space, with --output",
        code=ExitCode.ENVIRONMENT,
    )


def check_writable(path: Path) -> None:
    """Fail before any work when `path` could not be written afterwards."""
    if not path.parent.is_dir():
        raise SanaError(
            f"no such folder: {path.parent}",
            hint="create it, or choose another --output",
            code=ExitCode.USAGE,
        )
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


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


def slug(prompt: str, *, limit: int = 48) -> str:
    """A file name's worth of a prompt: letters and digits of any script, joined by hyphens."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    # Names are limited in bytes; a character of some scripts takes three.
    cut = words.encode()[:limit].decode(errors="ignore").rstrip("-")
    return cut or "picture"


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
