"""A finished picture, in memory, with everything that is known of it."""

from dataclasses import asdict, dataclass, fields
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from PIL import Image

from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import usage_error
from sana_cli.files import local_path
from sana_cli.images import picture_file
from sana_cli.images.formats import NAMES, Format, format_of
from sana_cli.pipeline.python_words import in_python
from sana_cli.request.output_paths import require_quality
from sana_cli.system.torch_memory import peak_memory_bytes

if TYPE_CHECKING:
    from sana_cli.pipeline.components import Components
    from sana_cli.pipeline.pass_count import PassCount


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """A picture in memory. `seconds` by stage, and in total; `settings` are those that its file carries."""

    image: Image.Image  # RGB
    seed: int
    seconds: dict[str, float]
    peak_memory_bytes: int
    predicted_peak_bytes: int
    plan: str  # what was in memory when
    decode: str  # how it was decoded: "whole", "exact-tiles 512", ...
    settings: dict[str, Any]
    passes: "PassCount | None" = None  # None: it was only decoded

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.image.width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.image.height

    def facts(self) -> dict[str, Any]:
        """Describe the picture for programs: sizes in pixels and bytes, times in seconds."""
        return {
            "seed": self.seed,
            "width": self.width,
            "height": self.height,
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            "peak_memory_bytes": self.peak_memory_bytes,
            "predicted_peak_bytes": self.predicted_peak_bytes,
            "plan": self.plan,
            "decode": self.decode,
            **({"passes": asdict(self.passes)} if self.passes else {}),
            "settings": self.settings,
        }

    def encoded(
        self, format: Format = "PNG", quality: int | None = None
    ) -> tuple[bytes, dict[str, Any]]:
        """The bytes of the file that `save` writes, and the settings in it. SanaError (usage) for another format or quality."""
        if format not in get_args(Format):
            raise usage_error(
                f"format cannot be {format!r}", f"it should be one of {', '.join(get_args(Format))}"
            )
        _require_quality(quality)
        file = BytesIO()
        settings = with_quality(self.settings, quality)
        carried = picture_file.write_picture(self.image, file, format, settings=settings)
        return file.getvalue(), carried

    def save(
        self, path: str | Path, *, overwrite: bool = False, quality: int | None = None
    ) -> "SavedResult":
        """Write a PNG, JPEG or WebP that carries the settings, whole or not at all; the name decides the format.

        The folder is made if it is not there. `quality` is 1 to 100 for JPEG (95 unless given) and WebP (lossless unless
        given, and at 100). SanaError where the folder cannot be written, or the file is there and `overwrite` is not.
        """
        if not isinstance(path, str | PathLike):
            raise usage_error(f"a picture cannot be saved to {path!r}", "give a path")
        file = local_path(str(path))
        if format_of(file) is None:
            hint = "PNG holds what was drawn, JPEG and WebP can be smaller"
            raise usage_error(f"cannot write {path}: pictures are saved as {NAMES}", hint)
        _require_quality(quality)
        with in_python():
            return save_result(self, file, overwrite=overwrite, quality=quality)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedResult(GenerationResult):
    """A picture that is in a file, too."""

    path: Path


def save_result(
    result: GenerationResult, path: Path, *, overwrite: bool, quality: int | None = None
) -> SavedResult:
    """Save a picture as `GenerationResult.save` does, for a command: errors name its flags."""
    settings = picture_file.save_picture(
        result.image, path, settings=with_quality(result.settings, quality), overwrite=overwrite
    )
    own = {field.name: getattr(result, field.name) for field in fields(GenerationResult)}
    return SavedResult(**{**own, "settings": settings}, path=path)


def _require_quality(quality: object) -> None:
    require_quality(GenerationOptions.of(quality=quality).quality)


def with_quality(settings: dict[str, Any], quality: int | None) -> dict[str, Any]:
    """Add the quality of a JPEG or WebP file to a picture's settings, if one is given."""
    return settings if quality is None else settings | {"quality": quality}


def result_of(
    image: Image.Image,
    components: "Components",
    settings: dict[str, Any],
    *,
    passes: "PassCount | None" = None,
) -> GenerationResult:
    """Describe the picture that `components` have just decoded. `settings`: of its file, except how it was decoded."""
    decode = components.plan.decode
    carried = {key: value for key, value in settings.items() if key != "decode"}
    # Blended tiles draw something else; exact ones round differently.
    if decode.mode != "whole":
        carried["decode"] = str(decode)
    return GenerationResult(
        image=image,
        seed=carried["seed"],
        seconds=components.stopwatch.seconds,
        peak_memory_bytes=peak_memory_bytes(components.device),
        predicted_peak_bytes=components.planning.predicted_peak,
        plan=str(components.planning),
        decode=str(decode),
        settings=carried,
        passes=passes,
    )
