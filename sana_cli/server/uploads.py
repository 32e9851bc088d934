"""Files that a request brings: kept in a private folder as long as its job, under the names that the client gave them.

A client's path decides nothing here. It is only shown, and stored in the picture as the local command would store it.
"""

import base64
import binascii
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from sana_cli.errors import ExitCode, SanaError, require, usage_error
from sana_cli.images.reading import PHOTOS
from sana_cli.request.init_image import InitImage, PictureFile
from sana_cli.request.params import GenerationParams
from sana_cli.server.problems import Problem

_LONGEST_NAME = 200  # bytes of a file's name


class Uploads:
    """The files of one request."""

    def __init__(self) -> None:
        self._shown: dict[Path, str] = {}
        with _keeping():
            self._folder = Path(tempfile.mkdtemp(prefix="sana-upload-"))

    def add(self, kind: str, data: bytes, name: str) -> str:
        """Keep a file as the `kind` ("image", "mask", "control") of its request; the path to it. `name` is what the client calls it.

        SanaError where the disk is full.
        """
        folder = self._folder / kind
        path = folder / _last_part(name, kind)
        with _keeping():
            folder.mkdir()
            path.write_bytes(data)
        self._shown[path] = name or path.name
        return str(path)

    def check_pixels(self, most: int) -> None:
        """SanaError (usage) for a picture of more than `most` pixels, by its header, before pixels are decoded."""
        from PIL import Image, UnidentifiedImageError

        for path, name in self._shown.items():
            try:
                with Image.open(path, formats=PHOTOS) as image:
                    width, height = image.size
            except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
                continue  # refused with better words when it is read
            require(
                width * height <= most,
                f"{name} is {width}x{height}, which is too large for this server",
                f"send at most {most:,} pixels",
            )

    def named(self, params: GenerationParams) -> GenerationParams:
        """The same picture, whose file will carry the client's names."""
        control, upscale = params.control, params.upscale
        if control is not None:
            control = replace(control, image=self._under_its_name(control.image))
        if upscale is not None:
            upscale = replace(upscale, init_image=self._named(upscale.init_image))
        begin = self._named(params.init_image)
        return replace(params, init_image=begin, control=control, upscale=upscale)

    def _named(self, begin: InitImage | None) -> InitImage | None:
        if begin is None:
            return None
        mask = self._under_its_name(begin.mask) if begin.mask else None
        return replace(begin, image=self._under_its_name(begin.image), mask=mask)

    def _under_its_name(self, file: PictureFile) -> PictureFile:
        return replace(file, shown=self._shown.get(file.path, file.path.name))

    def in_words(self, error: SanaError) -> SanaError:
        """The error with the client's names in place of our paths."""
        for path, name in self._shown.items():
            error.message = error.message.replace(str(path), name)
            error.hint = error.hint.replace(str(path), name)
        return error

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def held(content: bytes, prefix: str, suffix: str = "") -> Iterator[Path]:
    """A file with this content within the block. Raises Problem where the disk is full."""
    with ExitStack() as stack:
        try:
            with _keeping():
                file = stack.enter_context(
                    tempfile.NamedTemporaryFile(prefix=prefix, suffix=suffix)
                )
                file.write(content)
                file.flush()
        except SanaError as error:
            raise Problem.of(error) from error
        yield Path(file.name)


@contextmanager
def _keeping() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise not_kept(error) from error


def not_kept(error: OSError) -> SanaError:
    """Say what the system says of a file that cannot be kept, without its place on the disk."""
    return SanaError(
        f"the server cannot keep uploaded files: {error.strerror or type(error).__name__}",
        hint="send the request again later, or free space in the server's temporary folder",
        code=ExitCode.ENVIRONMENT,
    )


def _last_part(name: str, kind: str) -> str:
    """A file's name without its folders, on whatever system they are."""
    last = PureWindowsPath(PurePosixPath(name).name).name
    kept = "".join(c for c in last if c.isprintable() and c not in '<>:"|?*/\\')
    cut = kept.encode(errors="ignore")[-_LONGEST_NAME:].decode(errors="ignore").strip(". ")
    return cut or f"{kind}.png"


def decoded(text: str, field: str) -> bytes:
    """The bytes of a base64 text, or of a data URL. SanaError (usage) for anything else."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise usage_error(f"{field} is no base64 data URL", "send the file's bytes in base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise usage_error(f"{field} is not base64", "send the file's bytes in base64") from error
