"""The picture that another one begins with, and the mask of what is redrawn: found, checked, read and fitted. No torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageFilter, ImageOps

from quant.manifest import sha256_of
from sana_cli.config.choices import SchedulerName, require_strength
from sana_cli.errors import SanaError, usage_error
from sana_cli.files import require_utf8_name
from sana_cli.images.oddities import NONE, Oddities, oddities_of, turn_of, white_of, whole_numbers
from sana_cli.images.reading import BYTES_PER_PIXEL, opened, require_room
from sana_cli.system.home import without_home
from sana_cli.text import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STRENGTH = 0.6  # unless --strength says otherwise; diffusers' for Sprint
SCM_STRENGTH = 0.5  # two steps at 0.6 would begin with noise
_IN_MEMORY = Path("(in memory)")  # of a picture that a program gives
_MOST_STEPS = 1000  # that --steps takes
_WHITE = 128  # of 255; brighter positions of a mask are redrawn
_FEATHER = 8  # pixels within a mask over which the original fades into what was drawn
_SAME_SHAPE = 0.01  # of the ratio of its sides, by which a mask may differ from its picture


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFile:
    """A file that holds a picture, which was read once, whole; or a picture that a program holds in memory."""

    path: Path
    digest: str  # SHA-256 of the file, or of the pixels
    width: int  # of the picture as it is looked at, pixels
    height: int
    oddities: Oddities = NONE
    pixels: Image.Image | None = field(default=None, compare=False, repr=False)  # None: in the file
    shown: str = ""  # the name that pictures store, where it is not the path's

    @property
    def name(self) -> str:
        """The path as pictures store it: without the user's home."""
        return self.shown or without_home(self.path)

    @property
    def reading_bytes(self) -> int:
        """The memory that it takes while it is read, at most."""
        return BYTES_PER_PIXEL * self.width * self.height


@dataclass(frozen=True, slots=True, kw_only=True)
class InitImage:
    """The start of a picture, other than noise."""

    image: PictureFile
    strength: float
    first: int  # the step to begin with; 0: noise
    mask: PictureFile | None = None  # white is redrawn

    @property
    def is_encoded(self) -> bool:
        """Return whether the latents of the original are needed."""
        return self.first > 0 or self.mask is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Composite:
    """The kept part of an original, in the finished picture's size: RGB, and a mask of 0 (stays) and 255."""

    original: Image.Image
    mask: Image.Image

    def over(self, drawn: Image.Image) -> Image.Image:
        """The drawn picture within the mask, fading at its border; outside of it the original's own pixels."""
        return Image.composite(drawn, self.original, feathered(self.mask))


# -- requests --------------------------------------------------------------------------------------


def init_image_of(
    image: Path | Image.Image | None,
    *,
    strength: float | None,
    mask: Path | Image.Image | None,
    steps: int,
    scheduler: SchedulerName,
    room: int | None = None,
    option: str = "--strength",
) -> InitImage | None:
    """Check and read the start of a picture; `option` is where its strength is given, for messages.

    Raises SanaError (usage) for files and numbers that cannot work, or for pictures that take more
    than `room` bytes to read.
    """
    if image is None:
        for option, value in (("--strength", strength), ("--mask", mask)):
            if value is not None:
                raise usage_error(f"{option} needs a picture", "name it: --image FILE")
        return None
    original = examine(image, room)
    redrawn = examine(mask, room) if mask is not None else None
    if redrawn is not None:
        _require_mask(redrawn, original)
    usual = SCM_STRENGTH if scheduler == "scm" else STRENGTH
    strength = strength if strength is not None else 1.0 if mask is not None else usual
    strength = require_strength(strength, option)
    first = first_step(strength, steps, scheduler)
    if first == steps:
        raise no_step(strength, steps, option)
    return InitImage(image=original, strength=strength, first=first, mask=redrawn)


def no_step(strength: float, steps: int, option: str = "--strength") -> SanaError:
    """The error for a strength that leaves no step, given by `option`; its hint holds values that do draw."""
    enough = ceil(1 / strength - 1e-9)
    least = ceil(100 / steps) / 100
    remedies = [f"--steps {enough}"] if enough <= _MOST_STEPS else []
    remedies.append(f"{option} 1 (ignores the picture)" if least == 1 else f"{option} {least:g}")
    return usage_error(
        f"{option} {strength:g} of {counted(steps, 'step')} leaves none to run",
        f"use {' or '.join(remedies)}",
    )


def first_step(strength: float, steps: int, scheduler: SchedulerName) -> int:
    """The step to begin with, so that a share of `strength` of all steps runs.

    Rounded as in diffusers: down in flow models (`StableDiffusionImg2ImgPipeline`, whose convention the others took
    over), up in Sprint (`SanaSprintImg2ImgPipeline`).
    """
    tiny = 1e-9  # 100 * 0.29 is 28.999...
    if scheduler == "scm":
        return int(max(steps - steps * strength, 0) + tiny)
    return steps - min(int(steps * strength + tiny), steps)


def default_size(image: PictureFile, native: int, *, exact: bool) -> tuple[int, int]:
    """The picture's own size; if `exact`, shrunk to the model's native number of pixels and rounded to multiples of 32."""
    width, height = image.width, image.height
    if not exact:
        return width, height
    shrink = min(1.0, native / sqrt(width * height))
    return nearest_multiple(width * shrink), nearest_multiple(height * shrink)


def other_side(side: int, this: int, other: int, *, exact: bool) -> int:
    """The side that goes with a given one in a picture of `this` x `other`."""
    wanted = side * other / this
    return nearest_multiple(wanted) if exact else max(1, round(wanted))


def nearest_multiple(side: float) -> int:
    """The nearest size that the model can draw."""
    return max(32, round(side / 32) * 32)


def notices(init: InitImage, width: int, height: int) -> list[str]:
    """List notices on how the files are used for a picture of this size."""
    image, mask = init.image, init.mask
    lines = resized_notices(image, width, height)
    lines += [
        f"{file.path.name}: {'; '.join(words)}"
        for file, words in (
            (image, image.oddities.of_picture()),
            (mask, mask.oddities.of_mask() if mask else []),
        )
        if file and words
    ]
    if mask is not None and (mask.width, mask.height) != (image.width, image.height):
        lines.append(
            f"{mask.path.name} ({mask.width}x{mask.height}) is resized to fit "
            f"{image.path.name} ({image.width}x{image.height})"
        )
    if not init.is_encoded:
        why = (
            "--strength 1"
            if init.strength == 1
            else f"--strength {init.strength:g} of so few steps"
        )
        more = "" if init.strength == 1 else "; use more --steps or less --strength"
        lines.append(f"{why} draws from noise: only the size is the picture's{more}")
    return lines


def resized_notices(image: PictureFile, width: int, height: int) -> list[str]:
    """A notice for a picture of another size than this one, for which it is resized and cropped."""
    if (image.width, image.height) == (width, height):
        return []
    scale = max(width / image.width, height / image.height)
    lost = 1 - width * height / (scale * scale * image.width * image.height)
    cropped = f" and cropped by {max(lost, 0.001):.1%}" if lost > 1e-6 else ""
    return [
        f"{image.path.name} ({image.width}x{image.height}) is resized{cropped} to {width}x{height}"
    ]


def _require_mask(mask: PictureFile, image: PictureFile) -> None:
    if abs(mask.width / mask.height / (image.width / image.height) - 1) > _SAME_SHAPE:
        raise usage_error(
            f"{mask.path.name} is {mask.width}x{mask.height}, "
            f"{image.path.name} is {image.width}x{image.height}: the mask does not fit",
            "make a mask of the picture's size",
        )
    if not _has_white(mask):
        raise usage_error(
            f"{mask.path.name} has nothing white: nothing would be redrawn",
            "white is redrawn, black stays",
        )


@lru_cache(maxsize=8)
def _has_white(mask: PictureFile) -> bool:
    """Return whether a mask leaves anything to redraw; a batch asks once."""
    return read_mask(mask).getextrema()[1] == 255


# -- reading ---------------------------------------------------------------------------------------


# Once for each state of a file: a batch asks for it again and again.
_examined: dict[tuple[Path, int, int], PictureFile] = {}


def examine(picture: Path | Image.Image, room: int | None = None) -> PictureFile:
    """A picture's size, digest and oddities; SanaError (usage) for a file that cannot be read to its end, or that
    takes more than `room` bytes to read.
    """
    if isinstance(picture, Image.Image):
        return _in_memory(picture)
    path = picture
    require_utf8_name(path, "the picture")
    try:
        state = path.stat()
    except OSError:
        state = None  # reading it will say what is wrong
    key = path, *((state.st_size, state.st_mtime_ns) if state else (0, 0))
    if key in _examined:
        require_room(path, _examined[key].width, _examined[key].height, room)
        return _examined[key]
    with opened(path, room=room) as image:
        upright = _upright_rgb(image, path)
        oddities = oddities_of(image, path)
    _examined[key] = PictureFile(
        path=path,
        digest=sha256_of(path),
        width=upright.width,
        height=upright.height,
        oddities=oddities,
    )
    return _examined[key]


def _in_memory(picture: Image.Image) -> PictureFile:
    upright = _upright_rgb(picture, _IN_MEMORY)
    digest = sha256(f"{picture.mode} {picture.size}".encode() + picture.tobytes()).hexdigest()
    return PictureFile(
        path=_IN_MEMORY,
        digest=digest,
        width=upright.width,
        height=upright.height,
        pixels=picture.copy(),
    )


def read_image(picture: Path | PictureFile) -> Image.Image:
    """RGB in 8 bits, upright, what is transparent on white; of an animation the first picture."""
    with _opened(picture) as (image, path):
        return _upright_rgb(image, path)


def read_mask(picture: Path | PictureFile) -> Image.Image:
    """255 where a mask is white and opaque, 0 elsewhere; upright."""
    with _opened(picture) as (image, path):
        grey = _upright_rgb(image, path, background="black").convert("L")
    return grey.point([0] * _WHITE + [255] * (256 - _WHITE))


@contextmanager
def _opened(picture: Path | PictureFile) -> Iterator[tuple[Image.Image, Path]]:
    """A picture with its pixels, and its name for messages. Errors as for `images.reading.opened`."""
    path = picture if isinstance(picture, Path) else picture.path
    if isinstance(picture, PictureFile) and picture.pixels is not None:
        yield picture.pixels, path
        return
    with opened(path) as image:
        yield image, path


def _upright_rgb(image: Image.Image, path: Path, *, background: str = "white") -> Image.Image:
    if image.mode == "F":
        raise usage_error(
            f"{path} holds floating-point pixels, which have no defined white",
            "save it with 8 bits a channel",
        )
    turn = turn_of(image)
    try:
        rgb = _rgb(image, background)
    except ValueError as error:
        raise usage_error(
            f"{path} holds {image.mode} pixels, which cannot be made RGB", "save it as RGB"
        ) from error
    return rgb if turn is None else rgb.transpose(turn)


def _rgb(image: Image.Image, background: str) -> Image.Image:
    if image.mode.startswith("I"):  # more than 8 bits, which `convert` would cut off at 255
        image = Image.fromarray(_eight_bits(whole_numbers(image)))
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, background), layer)
    return image.convert("RGB")


def _eight_bits(values: "NDArray[np.integer[Any]]") -> "NDArray[np.uint8]":
    """Scale values from 0..`white_of` to 0..255."""
    import numpy as np

    if white_of(values) == 0xFFFF:
        return ((values.clip(0, None).astype(np.uint32) + 128) // 257).astype(np.uint8)
    shift = 24 if values.dtype == np.uint32 else 23
    return (values.clip(0, None) >> shift).astype(np.uint8)


# -- fitting ---------------------------------------------------------------------------------------


def fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """Fill width x height keeping the shape, cut the rest evenly; untouched if that is its size. Masks stay hard."""
    if image.size == (width, height):
        return image
    method = Image.Resampling.NEAREST if image.mode == "L" else Image.Resampling.LANCZOS
    return ImageOps.fit(image, (width, height), method)


def as_drawn(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return the width x height picture that `images.tensors.resize_and_crop` turns into this one."""
    import numpy as np

    if image.size == (width, height):
        return image
    ratio = max(image.width / width, image.height / height)
    inner = (min(width, round(image.width / ratio)), min(height, round(image.height / ratio)))
    # Bilinear also for masks: a position that is touched at all must not be lost.
    method = Image.Resampling.BILINEAR if image.mode == "L" else Image.Resampling.LANCZOS
    pixels = np.asarray(image.resize(inner, method))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    around = [(top, height - inner[1] - top), (left, width - inner[0] - left)]
    around += [(0, 0)] * (pixels.ndim - 2)
    return Image.fromarray(np.pad(pixels, around, mode="edge"))


def touched_positions(mask: Image.Image, downscale: int) -> "NDArray[np.bool_]":
    """Latent positions of which a mask redraws any pixel: bool (h, w)."""
    import numpy as np

    pixels = np.asarray(mask) > 0
    height, width = pixels.shape
    blocks = pixels.reshape(height // downscale, downscale, width // downscale, downscale)
    return np.any(blocks, axis=(1, 3))


def feathered(mask: Image.Image) -> Image.Image:
    """Weights of what was drawn: 0 outside of the mask, rising to 255 within, over fewer pixels in a thin one."""
    import numpy as np

    layer = mask
    layers: list[NDArray[np.uint16]] = []
    while len(layers) < _FEATHER and layer.getextrema()[1]:
        layers.append(np.asarray(layer, dtype=np.uint16))
        layer = layer.filter(ImageFilter.MinFilter(3))
    weights = sum(layers[1:], start=layers[0]) // len(layers)
    return Image.fromarray(weights.astype(np.uint8))
