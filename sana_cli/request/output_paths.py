"""Where pictures go; refuses names that are taken or cannot be written, before any work. No torch."""

import os
from collections.abc import Callable
from pathlib import Path

from sana_cli import files, text
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.images import file_names
from sana_cli.request.params import Request, _require, resolve, seeds_of


def check(request: Request, checkpoint: Checkpoint) -> None:
    """Raise the SanaError that a run would end in, as far as it shows before any work."""
    resolve(request, checkpoint)
    output_paths(request, seeds_of(request))


def output_paths(request: Request, seeds: list[int]) -> list[Path]:
    """Where each picture goes; refuses, before any work, names that are taken or unwritable."""
    target = request.output
    if target is None or target.is_dir() or files.is_new_folder(target, request.output_is_folder):
        folder = target or Path()
        base = text.slug(request.prompt)
        paths = [_free_name(folder / f"{base}-{seed}.png", request.overwrite) for seed in seeds]
    else:
        require_png(target, request.output_is_folder)
        if request.output_is_pattern:
            paths = file_names.expand(target, [(request.prompt, seed) for seed in seeds])
        elif len(seeds) > 1:
            paths = [target.with_stem(f"{target.stem}-{seed}") for seed in seeds]
        else:
            paths = [target]
        for path in paths:
            if os.path.lexists(path) and not request.overwrite:
                raise files.already_exists(path)
    for path in paths:
        files.check_writable(path, folder_is_new=request.output_is_folder)
    return paths


def picture_path(
    target: Path | None, *, is_folder: bool, default: Callable[[], Path], overwrite: bool
) -> Path:
    """Where one picture goes that has a name already, `default`; errors as for `output_paths`."""
    if target is None:
        path = default()
    elif target.is_dir():
        path = target / default().name
    else:
        require_png(target, is_folder)
        path = target
    if os.path.lexists(path) and not overwrite:
        raise files.already_exists(path)
    files.check_writable(path)
    return path


def require_png(target: Path, is_folder: bool, option: str = "--output") -> None:
    """SanaError (usage) for the name of a file that is no picture's. `is_folder`: it was written as one."""
    if is_folder:
        raise files.no_folder(target, option)
    _require(
        target.suffix.lower() == ".png",
        f"cannot write {target.name}: pictures are saved as .png",
        f"use {target.with_suffix('.png')}",
    )


def _free_name(path: Path, overwrite: bool) -> Path:
    candidate, number = path, 2
    while os.path.lexists(candidate) and not overwrite:
        candidate, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return candidate
