"""Put pictures into a folder that all machines share, or at a URL. A picture is there whole, or not at all.

In a shared folder `sana_cli.files` does all of it, with locks. At a URL there are no locks: each task has one worker
at a time, and a new attempt looks for the picture before it draws.
"""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from sana_cli.cluster.locations import open_url, reaching
from sana_cli.errors import SanaError, usage_error
from sana_cli.files import already_exists, temporary_folder
from sana_cli.images.formats import format_of
from sana_cli.images.picture_file import read_settings, save_picture, settings_without_pixels

# One upload makes an object, which is there when all of it is; "create" refuses to replace one.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "adl"}
_HEAD = 2**16  # bytes of a PNG that hold its settings, as a rule


class Output(Protocol):
    """The place of a run's pictures."""

    @property
    def is_remote(self) -> bool: ...

    def local(self, name: str) -> Path:
        """The file that a worker writes."""

    def settings_of(self, name: str) -> Mapping[str, Any] | None:
        """The settings of a finished picture, where the batch code cannot see it; else None."""

    def publish(self, path: Path, name: str, *, overwrite: bool) -> None:
        """Put a written file where it belongs."""


class FolderOutput:
    """A folder that all machines see under the same path. Names are absolute paths."""

    is_remote = False

    def local(self, name: str) -> Path:
        return Path(name)

    def settings_of(self, name: str) -> Mapping[str, Any] | None:
        del name  # `draw_batch` has looked, and holds the claim
        return None

    def publish(self, path: Path, name: str, *, overwrite: bool) -> None:
        pass


class UrlOutput:
    """A folder at a URL. Pictures are drawn into a private folder, and go from there in one piece."""

    is_remote = True

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.files, path = open_url(self.url)
        self.root = path.rstrip("/")
        self._folder = temporary_folder(self)
        protocol = self.files.protocol
        self._stores_objects = bool(
            _OBJECT_STORES & {protocol, *([] if isinstance(protocol, str) else protocol)}
        )

    def local(self, name: str) -> Path:
        return self._folder / name

    def settings_of(self, name: str) -> Mapping[str, Any] | None:
        """Read a picture's settings, of a PNG from its first bytes; None where there is no picture of ours."""
        remote = f"{self.root}/{name}"
        with reaching(f"{self.url}/{name}"):
            if not self.files.exists(remote):
                return None
            head = self.files.cat_file(remote, start=0, end=_HEAD)
            found = self._settings(name, head)
            if found is None and len(head) == _HEAD:
                found = self._settings(name, self.files.cat_file(remote))
            return found

    def _settings(self, name: str, data: bytes) -> Mapping[str, Any] | None:
        path = self._folder / f"head-{name}"
        path.write_bytes(data)
        try:
            if format_of(path) == "PNG":
                return settings_without_pixels(path)
            return read_settings(path)
        except SanaError:
            return None
        finally:
            path.unlink(missing_ok=True)

    def publish(self, path: Path, name: str, *, overwrite: bool) -> None:
        """Upload a finished file. SanaError where the name is taken, or the place not reached."""
        self.write(path.read_bytes(), name, overwrite=overwrite)

    def write(self, data: bytes, name: str, *, overwrite: bool) -> None:
        """Write a file whole or not at all. SanaError for a name that is taken (usage), and for a place out of reach."""
        with reaching(f"{self.url}/{name}"):
            self._write(data, name, overwrite)

    def _write(self, data: bytes, name: str, overwrite: bool) -> None:
        remote = f"{self.root}/{name}"
        if self._stores_objects:
            try:
                self.files.pipe_file(remote, data, mode="overwrite" if overwrite else "create")
            except FileExistsError as error:
                raise already_exists(Path(name)) from error
            return
        temporary = f"{self.root}/.sana-{uuid.uuid4().hex}.tmp"
        self.files.makedirs(self.root, exist_ok=True)
        try:
            self.files.pipe_file(temporary, data)
            if not overwrite and self.files.exists(remote):
                raise already_exists(Path(name))
            self.files.mv(temporary, remote)
        except BaseException:
            self.remove(temporary.rpartition("/")[2])
            raise

    def read(self, name: str) -> bytes | None:
        """Read a file; None where there is none."""
        with reaching(f"{self.url}/{name}"):
            try:
                data: bytes = self.files.cat_file(f"{self.root}/{name}")
            except FileNotFoundError:
                return None
            return data

    def names(self) -> list[str]:
        """List the files of the folder."""
        with reaching(self.url):
            try:
                found = self.files.ls(self.root, detail=False)
            except FileNotFoundError:
                return []
        return sorted(str(each).rpartition("/")[2] for each in found)

    def remove(self, name: str) -> None:
        """Remove a file, where that can be done."""
        with suppress(SanaError), reaching(f"{self.url}/{name}"):
            self.files.rm_file(f"{self.root}/{name}")


def open_output(url: str) -> Output:
    """Open the place of a run's pictures; "" is a shared folder. SanaError where it cannot be reached."""
    return UrlOutput(url) if url else FolderOutput()


def stand_ins(output: UrlOutput, folder: Path) -> None:
    """Put a stand-in into a local folder for each picture at a URL: one pixel, with the settings of the picture.

    The search for finished pictures and free names then works as in any folder.
    """
    for name in output.names():
        path = folder / name
        if format_of(path) is None:
            continue
        settings = output.settings_of(name)
        if settings is None:
            path.touch()  # not ours: the name is taken
        else:
            save_picture(Image.new("RGB", (1, 1)), path, settings=settings)


def split_output(url: str) -> tuple[str, str]:
    """Divide `--output` into a folder's URL and a pattern: ("s3://b/out", "{index}.png"). SanaError (usage)."""
    folder, _, last = url.rpartition("/")
    if "{" not in last and format_of(Path(last)) is None:
        folder, last = url.rstrip("/"), ""
    if "{" in folder or folder.endswith("/") or "://" not in folder:
        raise usage_error(
            f"--output {url} is no folder", "give a bucket and a folder, fields only in the name: s3://bucket/out/{index}.png"
        )  # fmt: skip
    return folder, last
