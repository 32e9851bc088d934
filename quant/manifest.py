"""Read and write a quantized folder's manifest: format, version, digests, every layer's scheme. No
torch.

`docs/checkpoint-format.md` is the specification. Readers are strict: they refuse an unknown
version, and compare each file with its SHA-256.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from quant.config import QuantConfig, config_from_json, config_to_json
from quant.dtypes import PRECISIONS
from quant.files import open_regular, read_small_text

FORMAT = "sana-quantized"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
REPORT = "report.json"  # how it was made and came out; no digest holds it, no reader needs it
WEIGHTS = "model.safetensors"  # in a component's folder


class FormatError(ValueError):
    """A manifest or file that this version cannot read, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A part of a pipeline: its file, the file's digest, and every layer's resolved scheme."""

    file: str  # relative to the folder
    sha256: str
    layers: Mapping[str, QuantConfig | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The contents of a quantized folder's manifest."""

    base_model: str
    base_revision: str
    base_precision: str  # what the float layers were trained in: fp32, bf16, fp16
    recipe: str
    written_by: str
    components: Mapping[str, Component]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "base_model": self.base_model,
            "base_revision": self.base_revision,
            "base_precision": self.base_precision,
            "recipe": self.recipe,
            "written_by": self.written_by,
            "components": {
                name: {
                    "file": part.file,
                    "sha256": part.sha256,
                    "layers": {path: config_to_json(c) for path, c in part.layers.items()},
                }
                for name, part in self.components.items()
            },
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Raises FormatError for another format, a newer version, or a damaged manifest."""
        if values.get("format") != FORMAT:
            raise FormatError(f"format {str(values.get('format'))[:80]!r} is not {FORMAT!r}")
        version = values.get("format_version")
        if type(version) is not int or version < 1:  # JSON's true is an int, too
            raise FormatError(f"format version {str(version)[:80]} makes no sense")
        if version > FORMAT_VERSION:
            raise FormatError(
                f"format version {str(version)[:80]} is newer than {FORMAT_VERSION}, the newest known"
            )
        try:
            return cls(
                base_model=str(values["base_model"]),
                base_revision=str(values["base_revision"]),
                base_precision=_known_precision(values["base_precision"]),
                recipe=str(values["recipe"]),
                written_by=str(values["written_by"]),
                components={
                    name: Component(
                        file=_own_file(name, part["file"]),
                        sha256=str(part["sha256"]),
                        layers={path: config_from_json(c) for path, c in part["layers"].items()},
                    )
                    for name, part in values["components"].items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise FormatError(f"damaged: {error!r}"[:300]) from error


def _own_file(component: str, file: object) -> str:
    """The one name that a component's file has: what is loaded by its folder must be what a digest was taken of."""
    if file != f"{component}/{WEIGHTS}":
        raise ValueError(f"{component} is in {str(file)[:80]!r}, not in {component}/{WEIGHTS}")
    return str(file)


def _known_precision(value: object) -> str:
    if value not in PRECISIONS:
        raise ValueError(f"precision {value!r}")
    return str(value)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder. Raises FormatError or OSError when there is none that we can read."""
    try:
        return Manifest.from_json(_read_object(folder / MANIFEST))
    except RecursionError as error:
        raise FormatError("nested too deeply") from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(read_small_text(path))
    except ValueError as error:
        raise FormatError(f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise FormatError("not a JSON object")
    return values


def sha256_of(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Make a hidden folder next to `target` that takes its name when the block ends well.

    Raises FileExistsError if `target` exists by then and `overwrite` is not set. The hidden folder
    stays when the block fails, so that a second run can reuse its finished files.
    """
    working = target.with_name(f".{target.name}.partial")
    if working.is_symlink():  # whoever made it would have us write elsewhere
        raise FileExistsError(errno.EEXIST, f"{working} is a symbolic link", str(working))
    working.mkdir(exist_ok=True)
    yield working
    if overwrite and target.exists():
        old = _replaced(target)
        if old.is_symlink() or old.is_file():  # none of ours: nothing is renamed over it
            raise FileExistsError(errno.EEXIST, "not a folder", str(old))
        if os.path.lexists(old):  # of a run that was killed after the swap
            shutil.rmtree(old)
        os.rename(target, old)
        os.rename(working, target)
        shutil.rmtree(old)
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(working, target)


def restore_folder(target: Path) -> None:
    """Give back what was to be replaced when a run was killed between the two renames of the swap."""
    old = _replaced(target)
    if old.is_dir() and not old.is_symlink() and not os.path.lexists(target):
        os.rename(old, target)


def _replaced(target: Path) -> Path:
    """Return where the replaced folder stays until its successor has its name."""
    return target.with_name(f".{target.name}.old")
