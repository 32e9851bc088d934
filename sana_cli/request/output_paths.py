"""Choose the files of pictures; refuse names that are taken or cannot be written, before any work. No torch."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from sana_cli import files, text
from sana_cli.config.choices import PictureFormat
from sana_cli.config.generation import GenerationOptions, limits_of
from sana_cli.errors import require
from sana_cli.files import local_path
from sana_cli.images import file_names, formats
from sana_cli.images.formats import SUFFIXES

if TYPE_CHECKING:
    from sana_cli.checkpoints.checkpoint import Checkpoint
    from sana_cli.progress import Reporter
    from sana_cli.request.params import GenerationParams


class Named(Protocol):
    """The facts of a picture that decide the name of its file, and whether it has room there."""

    @property
    def prompt(self) -> str: ...

    @property
    def negative_prompt(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def seed(self) -> int: ...


PNG_ONLY = (".png",)  # of sheets and plots
_OTHER_SETTINGS = 6000  # bytes of a picture's settings, except its prompts


class Target(NamedTuple):
    """The value of `--output`: a picture's file, a folder, or a pattern."""

    path: Path | None  # None: the working folder
    is_folder: bool  # it was written with a slash at its end
    is_pattern: bool  # it has fields, as `file_names` fills them in
    suffix: str = ".png"  # of names that are made up in a folder

    @classmethod
    def of(cls, text: str | None, format: str | None = None) -> Self:
        path = local_path(text) if text else None
        return cls(
            path=path,
            is_folder=(text or "").endswith(("/", os.sep)),
            is_pattern=path is not None and file_names.is_pattern(path),
            suffix=f".{PictureFormat(format or 'png')}",
        )

    @classmethod
    def of_options(cls, options: "GenerationOptions") -> Self:
        """Read where pictures go, and in which format. SanaError (usage) for a format that the name contradicts."""
        require_quality(options.quality)
        target = cls.of(options.output, options.format)
        path = target.path
        named = (
            formats.format_of(path) if path and not (target.is_folder or path.is_dir()) else None
        )
        if named and "format" not in options.sources and options.format is not None:
            require(
                named == formats.SUFFIXES[target.suffix],
                f"--format {options.format} does not fit --output {options.output}",
                "omit --format: the name decides",
            )
        return target

    @property
    def makes_folders(self) -> bool:
        """Return whether folders that are not there are made with the first picture. In a plain name they may be misspelt."""
        return self.is_folder or self.is_pattern


def planned(
    options: "GenerationOptions", checkpoint: "Checkpoint", *, overwrite: bool
) -> "list[tuple[GenerationParams, Path]]":
    """List every requested picture and its file. Raises the errors of drawing that can be found before any work."""
    from sana_cli.request.params import resolve_all

    pictures = resolve_all(options, checkpoint)
    paths = output_paths(Target.of_options(options), pictures, overwrite=overwrite)
    return list(zip(pictures, paths, strict=True))


def output_paths(target: Target, pictures: Sequence[Named], *, overwrite: bool) -> list[Path]:
    """Choose the file of each picture, before any work. Raises SanaError for names that are taken or unwritable."""
    path = target.path
    if path is None or path.is_dir() or files.is_new_folder(path, target.is_folder):
        folder = path or Path()  # wildcards give each picture a prompt of its own
        paths = [folder / f"{text.slug(p.prompt)}-{p.seed}{target.suffix}" for p in pictures]
        if not overwrite:
            paths = [file_names.free_name(each, os.path.lexists) for each in paths]
    else:
        require_picture(path, target.is_folder)
        if target.is_pattern:
            paths = file_names.expand(path, [(p.prompt, p.seed) for p in pictures])
        elif len(pictures) > 1:
            paths = [path.with_stem(f"{path.stem}-{p.seed}") for p in pictures]
        else:
            paths = [path]
        for each in paths:
            if os.path.lexists(each) and not overwrite:
                raise files.already_exists(each)
    for each, params in zip(paths, pictures, strict=True):
        require_fit(each, params)
        files.check_writable(each, folder_is_new=target.makes_folders)
    return paths


def picture_path(
    target: Target,
    *,
    default: Callable[[], Path],
    overwrite: bool,
    suffixes: Iterable[str] = SUFFIXES,
    named: file_names.Named | None = None,
) -> Path:
    """Choose the file of one picture whose usual name is `default()`; errors as for `output_paths`.

    `named` fills in the fields of a pattern; without it a name is taken as it is.
    """
    path = target.path
    if path is None:
        path = default()
    elif path.is_dir() or files.is_new_folder(path, target.is_folder):
        path = path / default().name
    else:
        require_picture(path, target.is_folder, suffixes=suffixes)
        if named and target.is_pattern:
            (path,) = file_names.expand(path, [named])
    if os.path.lexists(path) and not overwrite:
        raise files.already_exists(path)
    is_new = target.makes_folders if named else target.is_folder
    files.check_writable(path, folder_is_new=is_new)
    return path


def require_picture(
    target: Path, is_folder: bool, option: str = "--output", suffixes: Iterable[str] = SUFFIXES
) -> None:
    """SanaError (usage) for the name of a file that is no picture's. `is_folder`: it was written as one."""
    if is_folder:
        raise files.no_folder(target, option)
    require(
        target.name != "-",
        "pictures are not written to standard output",
        f"name a file: {option} picture.png; with --json, its path is printed",
    )
    if target.suffix.lower() not in suffixes and os.path.exists(target):  # with a suffix: files.py
        require(
            os.path.isfile(target) or os.path.isdir(target),
            f"{target} is not a regular file",
            f"name a file or a folder: {option} picture.png",
        )
    known = formats.NAMES if len(list(suffixes)) > 1 else next(iter(suffixes))
    require(
        target.suffix.lower() in suffixes,
        f"cannot write {target.name}: pictures are saved as {known}",
        f"use {_with_ending(target, suffixes)}",
    )


def _with_ending(target: Path, suffixes: Iterable[str]) -> Path:
    """Suggest a name that can be written: "a." is a.png, ".jpg" picture.jpg."""
    name = target.name.rstrip(".") or "picture"
    if name.lower() in suffixes:
        return target.with_name(f"picture{name}")
    return target.with_name(name).with_suffix(".png")


def require_fit(path: Path, params: Named) -> None:
    """SanaError (usage) for a picture whose sides or settings have no room in the format of its file."""
    format = formats.format_of(path) or "PNG"
    longest = formats.LONGEST_SIDE[format]
    require(
        max(params.width, params.height) <= longest,
        f"{path.name} cannot hold {params.width}x{params.height}: {format} takes sides of {longest} pixels",
        f"use {path.with_suffix('.png')}",
    )
    room = formats.LONGEST_TEXT[format] - _OTHER_SETTINGS
    written = len(json.dumps([params.prompt, params.negative_prompt], ensure_ascii=False).encode())
    require(
        written <= room,
        f"{path.name} has no room for a prompt of {written:,} bytes: JPEG carries {room:,}",
        f"use {path.with_suffix('.webp')}, or a shorter prompt",
    )


def require_quality(quality: int | None) -> None:
    """Raise SanaError (usage) for a quality that no file can have."""
    low, high = limits_of("quality")
    require(
        quality is None or low <= quality <= high,
        f"quality {quality} is out of range",
        "use 1 (smallest file) to 100 (lossless WebP)",
    )


def tell_quality(options: "GenerationOptions", paths: Sequence[Path], reporter: "Reporter") -> None:
    """Say that quality was asked for where no file has one."""
    typed = options.quality is not None and "quality" not in options.sources
    if typed and all(formats.format_of(path) == "PNG" for path in paths):
        reporter.notice("--quality has no effect on PNG, which is always exact")
