"""Finished latents in a file, so that a picture whose decoding fails is not lost.

The file is plain safetensors: one tensor `latents`, and the picture's settings in the header's metadata. If only a part
of an original is redrawn, two more tensors hold the original and the mask.
It is in the picture's folder until the picture is saved.
"""

# C latent channels, h w latent grid

import json
import os
import re
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from quant.files import open_regular
from sana_cli.checkpoints.model_files import CORRUPT, one_line, reading
from sana_cli.checkpoints.safetensors_headers import read_header, read_metadata
from sana_cli.config.choices import MAX_SIDE, DecodeMode
from sana_cli.errors import ExitCode, SanaError, checkpoint_error, usage_error
from sana_cli.files import in_utf8, new_file, require_file
from sana_cli.images.formats import format_of
from sana_cli.request.init_image import Composite

FORMAT = "sana-latents"
VERSION = 1
COMPOSITE_VERSION = (
    2  # of files that hold what stays of an original: older readers would draw over it
)
SUFFIX = ".latents.safetensors"
_LARGEST = (
    1e6  # of values; those of models are below 100, and much larger ones overflow in decoders
)
_LONGEST_NAME = 255  # bytes, of common file systems
_NEEDED = (  # settings that every picture has
    "prompt", "seed", "steps", "guidance", "scheduler", "size", "drawn_size", "model", "version",
)  # fmt: skip
_AGAIN = "draw the picture again"


@dataclass(frozen=True, slots=True, kw_only=True)
class HowToFinish:
    """Everything that decoding needs, except the latents; plain values."""

    model: str  # what opens the model again: a known name, a hub id, or an absolute path
    vae_precision: str
    device: str  # type of the device that drew
    backend: str
    decode: DecodeMode
    tile: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLatents:
    """The content of a file."""

    latents: Tensor  # (1, C, h, w) fp32
    settings: dict[str, Any]  # what the picture carries
    how: HowToFinish
    composite: Composite | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the finished picture."""
        return _size(self.settings["size"])


def write_beside(picture: Path, kept: KeptLatents) -> Path:
    """Keep the latents of a picture under a free name, or that of an earlier try at it. Errors as for `write`.

    Names of several processes at once stay apart, but for tries at the same picture.
    """
    name = _shortened(picture)
    number, path = 1, picture.with_name(name + SUFFIX)
    while True:
        is_earlier_try = path.exists() and _is_of(path, kept.settings)
        if is_earlier_try or not os.path.lexists(path):
            try:
                write(path, kept, overwrite=is_earlier_try)
                return path
            except SanaError as error:
                if error.code != ExitCode.USAGE:  # of a name that was free a moment ago
                    raise
                continue
        number += 1
        path = picture.with_name(f"{name}-{number}{SUFFIX}")


def _shortened(picture: Path) -> str:
    """The picture's name, its stem cut where a file system would refuse it with our suffix."""
    room = _LONGEST_NAME - len(SUFFIX) - len("-9999") - len(os.fsencode(picture.suffix))
    stem = os.fsencode(picture.stem)
    if len(stem) <= room:
        return picture.name
    return stem[:room].decode(errors="ignore") + picture.suffix


def _is_of(path: Path, settings: dict[str, Any]) -> bool:
    try:
        return read(path).settings == settings
    except SanaError:
        return False


def picture_of(path: Path) -> Path:
    """Derive a picture's path from that of its kept latents. Raises SanaError (usage) if the file was renamed."""
    name = re.sub(r"(-\d+)?$", "", path.name.removesuffix(SUFFIX))
    if name == path.name or format_of(Path(name)) is None:
        raise usage_error(
            f"the picture's name does not follow from {path.name}", "give one: --output picture.png"
        )
    return path.with_name(name)


def finishing_command(path: Path) -> str:
    """Build the command that finishes the picture."""
    shown = f"./{path}" if str(path).startswith("-") else str(path)
    return f"sana decode {shlex.quote(shown)}"


def write(path: Path, kept: KeptLatents, *, overwrite: bool) -> None:
    """Write the file, whole or not at all. SanaError where that is impossible."""
    from safetensors.torch import save

    metadata = {
        "format": FORMAT,
        "format_version": str(COMPOSITE_VERSION if kept.composite else VERSION),
        # For people: a path may hold what is not UTF-8. `finish` keeps it to the byte.
        "model": in_utf8(kept.how.model),
        "settings": json.dumps(kept.settings),
        "finish": json.dumps(asdict(kept.how)),
    }
    tensors = {"latents": kept.latents.detach().float().cpu().contiguous()}
    if kept.composite is not None:
        tensors["original"] = torch.from_numpy(np.array(kept.composite.original))  # (H, W, 3) uint8
        tensors["mask"] = torch.from_numpy(np.array(kept.composite.mask))  # (H, W) uint8
    data = save(tensors, metadata)
    with new_file(path, overwrite=overwrite) as file:
        file.write(data)


def read(path: Path) -> KeptLatents:
    """Read and check a file; SanaError says what is wrong with it."""
    metadata, tensors = _open(path)
    latents = tensors.get("latents")
    version = metadata.get("format_version", "")
    if metadata.get("format") != FORMAT:
        raise usage_error(
            f"{path} holds no finished latents",
            f"`sana generate` keeps them as PICTURE.png{SUFFIX}",
        )
    if version not in (str(VERSION), str(COMPOSITE_VERSION)):
        raise _damaged(
            path,
            f"its format version is {version!r}, not {VERSION} or {COMPOSITE_VERSION}",
            "install a newer sana",
        )
    if latents is None or latents.ndim != 4 or latents.shape[0] != 1 or 0 in latents.shape:
        shape = None if latents is None else tuple(latents.shape)
        raise _damaged(path, f"its latents have the shape {shape}, not (1, C, h, w)")
    if latents.dtype != torch.float32:
        raise _damaged(path, f"its latents are {latents.dtype}, not torch.float32")
    if not latents.isfinite().all():
        raise _damaged(path, "its latents hold NaN or infinite values")
    if (largest := latents.abs().max().item()) > _LARGEST:
        raise _damaged(path, f"its latents hold values up to {largest:.0e}, which no model draws")
    try:
        settings, how = _parse(metadata)
        drawn, shape = _size(settings["drawn_size"]), tuple(latents.shape[-2:])
        size = _size(settings["size"])
        composite = _composite(tensors, size) if version == str(COMPOSITE_VERSION) else None
    except (ValueError, TypeError, KeyError, RecursionError, ArithmeticError) as error:
        raise _damaged(path, f"its settings cannot be read: {one_line(error)}") from error
    if drawn != (32 * shape[1], 32 * shape[0]):
        raise _damaged(
            path, f"latents of {shape[1]}x{shape[0]} are none of a {drawn[0]}x{drawn[1]} picture"
        )
    return KeptLatents(latents=latents, settings=settings, how=how, composite=composite)


def _composite(tensors: dict[str, Tensor], size: tuple[int, int]) -> Composite:
    """Build the composite from `original` (H, W, 3) and `mask` (H, W), uint8; `size`: W, H. Raises ValueError or KeyError."""
    original, mask = tensors["original"], tensors["mask"]
    width, height = size
    shapes = tuple(original.shape), tuple(mask.shape)
    dtypes = {original.dtype, mask.dtype}
    if shapes != ((height, width, 3), (height, width)) or dtypes != {torch.uint8}:
        raise ValueError(f"an original of shape {shapes[0]} and a mask of {shapes[1]}")
    if not mask.any():
        raise ValueError("a mask that redraws nothing")
    images = (Image.fromarray(tensor.numpy()) for tensor in (original, mask))
    return Composite(original=next(images), mask=next(images))


def _open(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import safe_open

    hint = f"`sana generate` keeps unfinished pictures as PICTURE.png{SUFFIX}"
    require_file(path, "file", hint)
    try:
        header, metadata = read_header(path), read_metadata(path)
        # By the header, before any data: a file of a few bytes on the disk can stand for gigabytes.
        known = {name: header[name] for name in ("latents", "original", "mask") if name in header}
        if any(max(shape, default=0) > MAX_SIDE for _, shape in known.values()):
            raise _damaged(path, "it holds tensors that are larger than any picture")
        # By its descriptor where safetensors refuses the name: /proc is where names are any bytes.
        with (
            reading(path),
            open_regular(path) as file,
            safe_open(_utf8_name(path, file.fileno()), framework="pt") as handle,
        ):
            # Copies: the file may be removed while its latents are decoded.
            return metadata, {name: handle.get_tensor(name).clone() for name in known}
    except SanaError as error:
        if format_of(path) is not None:
            raise usage_error(
                f"{path} is a picture, not latents: nothing is left to decode",
                f"`sana generate` keeps unfinished pictures as PICTURE.png{SUFFIX}",
            ) from error
        if CORRUPT in error.message:
            reason = error.message.partition(f"{CORRUPT}: ")[2]
            raise _damaged(path, f"not a whole safetensors file ({reason})") from error
        raise


def _utf8_name(path: Path, descriptor: int) -> Path:
    is_utf8 = os.fsencode(path) == str(path).encode(errors="replace")
    return path if is_utf8 else Path(f"/proc/self/fd/{descriptor}")


def _parse(metadata: dict[str, str]) -> tuple[dict[str, Any], HowToFinish]:
    settings, how = json.loads(metadata["settings"]), HowToFinish(**json.loads(metadata["finish"]))
    # ValueError for half characters, which no picture could carry. The model's place may hold some.
    json.dumps(settings, ensure_ascii=False).encode()
    missing = [key for key in _NEEDED if key not in settings]
    if missing:
        raise ValueError(f"no {missing[0]}")
    if not all(re.fullmatch(r"[a-z_]{1,40}", key) for key in settings):
        raise ValueError("a name that is none")
    if not isinstance(settings["prompt"], str) or type(settings["seed"]) is not int:
        raise ValueError("a prompt or seed that is none")
    if how.decode not in get_args(DecodeMode) or not isinstance(how.model, str):
        raise ValueError(f"decode {how.decode!r}")
    if how.tile is not None and (
        type(how.tile) is not int or not 32 <= how.tile <= MAX_SIDE or how.tile % 32
    ):
        raise ValueError(f"tile {how.tile!r}")
    if how.vae_precision not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"precision {how.vae_precision!r}")
    return settings, how


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{2,5})x(\d{2,5})", text)
    if match is None:
        raise ValueError(f"size {text!r}")
    width, height = int(match[1]), int(match[2])
    if not (32 <= width <= MAX_SIDE and 32 <= height <= MAX_SIDE):
        raise ValueError(f"size {text!r}")
    return width, height


def _damaged(path: Path, what: str, hint: str = _AGAIN) -> SanaError:
    return checkpoint_error(f"cannot finish {path}: {what}", hint=hint)
